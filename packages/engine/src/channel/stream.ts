import type { BulkheadError } from "@bulkhead/contract";
import { Malformed, WireReader } from "./codec.ts";
import { failureToError } from "./errors.ts";
import type { Grammar } from "./grammar.ts";
import { InboundLane } from "./inbound.ts";
import { OutboundLane } from "./outbound.ts";
import { LANE, readMessage, TYPE, type Message } from "./wire.gen.ts";

/** A message on a stream that is neither flow control nor an end. */
export type StreamMessage = Extract<
  Message,
  { readonly name: "Started" | "Recorded" | "Exited" | "StatResult" | "Opened" | "Written" | "Usage" }
>;

export type StreamEnd =
  | { readonly how: "done" }
  /** The agent's own account of what went wrong inside. */
  | { readonly how: "failed"; readonly error: BulkheadError }
  /** The channel is gone. */
  | { readonly how: "broken"; readonly error: BulkheadError };

export interface StreamHandlers {
  /** Names what was asked for in errors: `file "/etc/x"`. */
  readonly subject: string;
  message?(message: StreamMessage): void;
  /** Called exactly once, unless the stream was cancelled before. Lanes have ended or failed by then. */
  end(end: StreamEnd): void;
}

type State =
  | { readonly at: "open"; readonly handlers: StreamHandlers }
  /** The caller has gone; the agent's end has not come yet. */
  | { readonly at: "cancelled" }
  | { readonly at: "over" };

/** What a stream needs of its channel. */
export interface StreamPort {
  control(stream: number, message: Message): void;
  wantCredit(lane: InboundLane): void;
  wantWrite(lane: OutboundLane): void;
}

export class ChannelStream {
  readonly id: number;
  readonly out: InboundLane;
  readonly err: InboundLane;
  readonly in: OutboundLane;
  readonly #grammar: Grammar;
  readonly #port: StreamPort;
  readonly #subject: string;
  readonly #seen = new Set<number>();
  #state: State;

  constructor(
    id: number,
    { grammar, window }: { readonly grammar: Grammar; readonly window: number },
    handlers: StreamHandlers,
    port: StreamPort,
  ) {
    this.id = id;
    this.#grammar = grammar;
    this.#port = port;
    this.#subject = handlers.subject;
    this.#state = { at: "open", handlers };
    this.out = new InboundLane(id, LANE.out, window, (lane) => port.wantCredit(lane));
    this.err = new InboundLane(id, LANE.err, window, (lane) => port.wantCredit(lane));
    this.in = new OutboundLane(id, LANE.in, window, (lane) => port.wantWrite(lane));
  }

  get over(): boolean {
    return this.#state.at !== "open";
  }

  /** Signal and Resize; dropped when the stream is over. */
  send(message: Extract<Message, { readonly name: "Signal" | "Resize" }>): void {
    if (this.#state.at === "open") this.#port.control(this.id, message);
  }

  /** Tells the agent that nobody listens any more. No handler is called again; readers of the lanes see their end. */
  cancel(error?: Error): void {
    if (this.#state.at !== "open") return;
    this.#state = { at: "cancelled" };
    this.#port.control(this.id, { name: "Cancel", body: {} });
    this.#closeLanes(error);
  }

  /** Readers and writers of the lanes see their end now; the stream itself waits for `cancel` or its own end. */
  abandon(error: Error): void {
    this.#closeLanes(error);
  }

  /** One frame from the agent. @returns true when it was the stream's last. @throws Malformed for any violation. */
  receive(type: number, lane: number, payload: Buffer): boolean {
    if (type === TYPE.Data) {
      this.#inbound(lane, "data").accept(payload);
      return false;
    }
    const reader = new WireReader(payload);
    const message = readMessage(type, reader);
    if (message === null) throw new Malformed("a message of an unknown type");
    reader.finish();
    switch (message.name) {
      case "End":
        this.#inbound(lane, "an end").end();
        return false;
      case "Credit":
        if (lane !== LANE.in || !this.#grammar.lanes.in) throw new Malformed("credit for a lane that takes no data");
        this.in.give(message.body.bytes);
        return false;
      case "Done":
      case "Failed":
        noLane(lane);
        this.#terminate(message);
        return true;
      default:
        noLane(lane);
        this.#once(type);
        if (this.#state.at === "open") this.#state.handlers.message?.(message as StreamMessage);
        return false;
    }
  }

  #inbound(lane: number, what: string): InboundLane {
    const { lanes, first } = this.#grammar;
    if (first !== null && !this.#seen.has(first)) throw new Malformed(`${what} before the stream was answered`);
    if (lane === LANE.out && lanes.out) return this.out;
    if (lane === LANE.err && lanes.err) return this.err;
    throw new Malformed(`${what} on a lane the stream does not have`);
  }

  #once(type: number): void {
    const { first, messages } = this.#grammar;
    if (!messages.includes(type)) throw new Malformed("a message that does not belong to its stream");
    if (this.#seen.has(type)) throw new Malformed("a message twice on one stream");
    if (first !== null && first !== type && !this.#seen.has(first))
      throw new Malformed("a message before the stream was answered");
    this.#seen.add(type);
  }

  #terminate(message: Extract<Message, { readonly name: "Done" | "Failed" }>): void {
    // A cancelled stream may stop anywhere; an open one only where its grammar says.
    if (message.name === "Done" && this.#state.at === "open") this.#checkComplete();
    if (message.name === "Done") this.finish({ how: "done" });
    else this.finish({ how: "failed", error: failureToError(message.body, this.#subject) });
  }

  #checkComplete(): void {
    for (const type of this.#grammar.required) {
      if (!this.#seen.has(type)) throw new Malformed("the end of a stream before all it has to say");
    }
    for (const lane of this.#grammar.endsBeforeDone) {
      if (!(lane === LANE.out ? this.out : this.err).ended)
        throw new Malformed("the end of a stream before its lanes ended");
    }
  }

  /** The stream is over, by the agent's word or because the channel is gone. */
  finish(end: StreamEnd): void {
    const state = this.#state;
    if (state.at === "over") return;
    this.#state = { at: "over" };
    this.#closeLanes(end.how === "done" ? undefined : end.error);
    if (state.at === "open") state.handlers.end(end);
  }

  #closeLanes(error?: Error): void {
    this.out.close(error);
    this.err.close(error);
    this.in.close();
  }
}

function noLane(lane: number): void {
  if (lane !== 0) throw new Malformed("a lane where none belongs");
}
