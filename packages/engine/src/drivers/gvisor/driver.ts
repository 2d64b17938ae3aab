export const gvisorDriver = () => { throw 1; };
