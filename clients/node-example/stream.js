// Many episodes over one stream: the fast path. Whatever is ready travels together, as columns of one frame.
//
//     node stream.js 127.0.0.1:7070 cartpole 100

import {
  acquire, connect, decode, encode, fromValue, hangUp, newId, Refused, refusedBy, seconds, toValue,
} from "./protocol.js";
import { act } from "./policy.js";

const [address = "127.0.0.1:7070", environment = "cartpole", count = "16", firstSeed = "0"] = process.argv.slice(2);
const LIVENESS_WINDOW = 10;
const TERMINATED = 1;
const TRUNCATED = 2;

/** One connection to one host: hello, a lease, its episodes, and goodbye. */
class HostStream {
  constructor(lease) {
    this.lease = lease;
    this.client = connect(lease);
    this.call = this.client.Stream();
    this.rows = []; // commands that wait to be written
    this.writing = false;
    this.sequence = 0;
    this.challenge = "0";
    this.episodes = new Map(); // by handle
    this.finished = [];
    this.lastHandle = 0;
  }

  /** Plays `seeds` to their ends. Resolves to what each episode came to. */
  play(seeds) {
    this.seeds = [...seeds];
    this.call.write({
      hello: {
        protocolVersion: 1,
        clientId: newId(),
        connectionId: newId(),
        role: "STREAM_ROLE_MAIN",
        livenessWindow: seconds(LIVENESS_WINDOW),
      },
    });
    // Each side shows at least every third of the window that its process lives, not only its transport.
    const clock = setInterval(() => this.beat(), (LIVENESS_WINDOW / 4) * 1000);
    return new Promise((resolve, reject) => {
      this.call.on("data", (frame) => {
        try {
          this.read(frame);
        } catch (error) {
          reject(error);
          this.call.cancel();
        }
      });
      this.call.on("end", () => resolve(this.finished));
      this.call.on("error", (error) => reject(refusedBy(error)));
    }).finally(() => {
      clearInterval(clock);
      hangUp(this.client);
    });
  }

  // ---- writing

  send(row) {
    this.rows.push(row);
    if (!this.writing) {
      this.writing = true;
      setImmediate(() => this.flush()); // what else becomes ready in this turn goes into the same frame
    }
  }

  /** One frame: row i is (handles[i], indices[i], payloads[i], kinds[i]). A column of defaults may be left out. */
  flush() {
    this.writing = false;
    const rows = this.rows.splice(0, 512);
    if (rows.length === 0) return;
    const frame = { handles: rows.map((row) => row.handle) };
    if (rows.some((row) => row.index)) frame.indices = rows.map((row) => row.index ?? 0);
    if (rows.some((row) => row.payload)) frame.payloads = rows.map((row) => row.payload ?? Buffer.alloc(0));
    if (rows.some((row) => row.kind)) frame.kinds = rows.map((row) => row.kind ?? "COMMAND_KIND_STEP");
    this.call.write(frame);
    if (this.rows.length) this.send(this.rows.pop());
  }

  beat() {
    this.sequence += 1;
    this.call.write({ heartbeat: { sequence: this.sequence, answer: this.challenge } });
  }

  // ---- reading

  read(frame) {
    if (frame.welcome) {
      this.leaseNumber = ++this.lastHandle;
      this.send({ handle: this.leaseNumber, kind: "COMMAND_KIND_BIND", payload: this.lease.token });
    }
    // After a silence a host begins nothing until its challenge is answered.
    if (frame.heartbeat && frame.heartbeat.challenge !== "0") {
      this.challenge = frame.heartbeat.challenge;
      this.beat();
    }
    frame.handles.forEach((handle, i) => {
      const event = {
        handle,
        kind: frame.kinds[i] ?? "EVENT_KIND_OUTCOME", // an absent column is one of defaults
        index: frame.indices[i] ?? 0,
        payload: frame.payloads[i] ?? Buffer.alloc(0),
        reward: frame.rewards[i] ?? 0,
        flags: frame.flags[i] ?? 0,
        digest: frame.digests[i] ?? "0",
      };
      this.handle(event);
    });
  }

  handle(event) {
    switch (event.kind) {
      case "EVENT_KIND_BOUND":
        this.info = decode("envmesh.v1.LeaseBound", event.payload).environment;
        for (let slot = 0; slot < this.lease.count && this.seeds.length; slot += 1) this.begin(this.seeds.shift());
        break;
      case "EVENT_KIND_OUTCOME":
        this.outcome(this.episodes.get(event.handle), event);
        break;
      case "EVENT_KIND_CLOSED": // the slot is idle: the next episode takes it, under a handle of its own
        this.episodes.delete(event.handle);
        if (this.seeds.length) this.begin(this.seeds.shift());
        else if (this.episodes.size === 0) this.send({ handle: this.leaseNumber, kind: "COMMAND_KIND_RETURN" });
        break;
      case "EVENT_KIND_RETURNED":
        this.call.end();
        break;
      case "EVENT_KIND_FAILURE": {
        const refused = new Refused(event.payload);
        const episode = this.episodes.get(event.handle);
        if (!episode) throw refused;
        this.finish(episode, { failure: refused.reason }); // a failure is never a reward
        break;
      }
      default: // notices: this example neither moves its episodes nor minds a slot that goes back
    }
  }

  // ---- episodes

  begin(seed) {
    const episode = { handle: ++this.lastHandle, seed, sum: 0 };
    this.episodes.set(episode.handle, episode);
    const reset = {
      episodeId: newId(),
      epoch: (1n << 32n).toString(),
      leaseNumber: this.leaseNumber,
      ...(this.info.seeded ? { seed: String(seed) } : {}),
    };
    this.send({ handle: episode.handle, kind: "COMMAND_KIND_RESET", payload: encode("envmesh.v1.ResetRequest", reset) });
  }

  outcome(episode, { index, payload, reward, flags, digest }) {
    episode.sum += reward;
    if (flags & (TERMINATED | TRUNCATED)) {
      this.finish(episode, { steps: index, return: episode.sum, digest });
      return;
    }
    const observation = fromValue(decode("envmesh.v1.Value", payload), this.info.observationSpace);
    const action = encode("envmesh.v1.Value", toValue(act(observation)));
    this.send({ handle: episode.handle, index: index + 1, payload: action });
  }

  finish(episode, result) {
    this.finished.push({ seed: episode.seed, ...result });
    this.send({ handle: episode.handle, kind: "COMMAND_KIND_CLOSE" });
  }
}

const seeds = Array.from({ length: Number(count) }, (_, i) => Number(firstSeed) + i);
try {
  const leases = await acquire(address, environment, Math.min(seeds.length, 64));
  const shares = leases.map((_, i) => seeds.filter((__, j) => j % leases.length === i));
  const played = await Promise.all(leases.map((lease, i) => new HostStream(lease).play(shares[i])));
  const episodes = played.flat().sort((one, other) => one.seed - other.seed);
  console.log(JSON.stringify({ environment: leases[0].environment, episodes }));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
