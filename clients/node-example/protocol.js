// What both examples need of the protocol: the messages, values, errors, and a lease. All of it comes from the .proto.

import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const here = fileURLToPath(new URL(".", import.meta.url));
const protos = process.env.ENVMESH_PROTO ?? fileURLToPath(new URL("../../proto", import.meta.url));
const definition = protoLoader.loadSync(
  ["envmesh/v1/environment.proto", "envmesh/v1/placement.proto", "google/rpc/status.proto"],
  { includeDirs: [protos, here], longs: String, enums: String, defaults: true, arrays: true, oneofs: true },
);
const { EnvironmentService, PlacementService } = grpc.loadPackageDefinition(definition).envmesh.v1;

/** A message to bytes and back, by its name: on a stream, payloads travel as bytes of their own. */
export const encode = (name, message) => definition[name].serialize(message);
export const decode = (name, bytes) => definition[name].deserialize(bytes);

export const newId = () => randomBytes(16);
export const seconds = (number) => ({ seconds: Math.floor(number), nanos: Math.round((number % 1) * 1e9) });

// ---- values

const READERS = {
  DTYPE_FLOAT32: Float32Array,
  DTYPE_FLOAT64: Float64Array,
  DTYPE_INT8: Int8Array,
  DTYPE_INT16: Int16Array,
  DTYPE_INT32: Int32Array,
  DTYPE_INT64: BigInt64Array,
  DTYPE_UINT8: Uint8Array,
  DTYPE_UINT16: Uint16Array,
  DTYPE_UINT32: Uint32Array,
  DTYPE_UINT64: BigUint64Array,
};

function readArray(bytes, dtype) {
  const Reader = READERS[dtype];
  if (!Reader) throw new Error(`this example reads no arrays of ${dtype}`);
  return new Reader(new Uint8Array(bytes).buffer); // copied, so that it is aligned; little-endian, as the wire is
}

/** What an element of a `packed` array is, by the declared space. */
function packedDtype(space) {
  switch (space?.kind) {
    case "box":
      return space.box.dtype;
    case "multiDiscrete":
      return space.multiDiscrete.n.dtype;
    case "multiBinary":
      return "DTYPE_INT8";
    default:
      throw new Error(`a packed value where the space is ${space?.kind ?? "not declared"}`);
  }
}

/** A whole number of 64 bits: a Number where that is exact, a BigInt beyond. */
function readInteger(text) {
  const number = Number(text); // the loader gives 64 bits as text
  return Number.isSafeInteger(number) ? number : BigInt(text);
}

/** A Value as JavaScript has it. Arrays of a declared space come `packed`: the space says what an element is. */
export function fromValue(value, space) {
  switch (value?.kind) {
    case undefined:
      return null;
    case "packed":
      return readArray(value.packed, packedDtype(space));
    case "tensor":
      return readArray(value.tensor.data, value.tensor.dtype);
    case "json":
      return JSON.parse(value.json);
    case "blob":
      return value.blob.data;
    case "list":
      return value.list.values.map((each) => fromValue(each));
    case "map":
      return Object.fromEntries(value.map.entries.map(({ key, value: each }) => [key, fromValue(each)]));
    case "integer":
      return readInteger(value.integer);
    default:
      return value[value.kind]; // text, real, boolean
  }
}

/** JavaScript as a Value: null, text, truth values and numbers, which is all that this example says. */
export function toValue(content) {
  if (content === null) return {};
  switch (typeof content) {
    case "string":
      return { text: content };
    case "boolean":
      return { boolean: content };
    case "number":
      return Number.isSafeInteger(content) ? { integer: content } : { real: content };
    case "bigint":
      if (BigInt.asIntN(64, content) === content) return { integer: content.toString() };
  }
  throw new TypeError(`this example has no Value for ${typeof content} ${String(content)}`);
}

// ---- errors: a google.rpc.Status, in the trailers of a call or in a FAILURE event

export class Refused extends Error {
  constructor(bytes) {
    const status = decode("google.rpc.Status", bytes);
    const info = status.details.find((detail) => detail.type_url.endsWith("google.rpc.ErrorInfo"));
    const reason = info ? decode("google.rpc.ErrorInfo", info.value).reason : "";
    super(`${grpc.status[status.code]} ${reason}: ${status.message}`);
    this.code = grpc.status[status.code];
    this.reason = reason;
  }
}

export function refusedBy(error) {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  return bytes ? new Refused(bytes) : error;
}

/** Makes a client's unary calls return promises; each sends the metadata. */
function promised(client, metadata, ...names) {
  for (const name of names) {
    const call = client[name].bind(client);
    client[name] = (request) =>
      new Promise((resolve, reject) => {
        const deadline = Date.now() + 60_000;
        call(request, metadata, { deadline }, (error, reply) => (error ? reject(refusedBy(error)) : resolve(reply)));
      });
  }
  return client;
}

/** A client of the host that a lease is for. The lease says what each call there sends as metadata. */
export function connect(lease) {
  const metadata = new grpc.Metadata();
  for (const { key, value } of lease.metadata) metadata.add(key, value);
  const client = new EnvironmentService(lease.address, grpc.credentials.createInsecure());
  const stream = client.Stream.bind(client);
  client.Stream = () => stream(metadata);
  return promised(client, metadata, "ListEnvironments", "Reset", "Step", "Reward", "Close");
}

/** Hangs up. (`client.close` is the call Close of the service.) */
export const hangUp = (client) => grpc.Client.prototype.close.call(client);

/** Slots for `count` episodes, as one lease or several: each names the host that it is for. */
export async function acquire(address, environment, count) {
  const placement = new PlacementService(address, grpc.credentials.createInsecure());
  const leases = [];
  const call = placement.Acquire({ environment, count, clientId: newId(), timeout: seconds(30) });
  try {
    for await (const { grant, queued } of call) {
      if (grant) leases.push(...grant.leases);
      else console.error(`waiting: ${queued.position} requests go first; ${queued.reason}`);
    }
  } catch (error) {
    throw refusedBy(error);
  } finally {
    hangUp(placement);
  }
  return leases;
}
