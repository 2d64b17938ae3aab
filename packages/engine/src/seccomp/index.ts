export { learnedProfile, type SeenCall } from "../drivers/container/seccomp/learn.ts";
