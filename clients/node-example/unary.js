// One episode with unary calls: what any language, or grpcurl, can do.
//
//     node unary.js 127.0.0.1:7070 cartpole 7

import { acquire, connect, fromValue, hangUp, newId, toValue } from "./protocol.js";
import { act } from "./policy.js";

const [address = "127.0.0.1:7070", environment = "cartpole", seed] = process.argv.slice(2);

async function play() {
  const [lease] = await acquire(address, environment, 1);
  const host = connect(lease);
  const { environments } = await host.ListEnvironments({});
  const info = environments.find(({ name, version }) => `${name}@${version}` === lease.environment);

  // An episode is named by 16 random bytes of the client and its epoch: owner 1, rebuild 0.
  const episodeId = newId();
  const epoch = (1n << 32n).toString();
  const beginning = { episodeId, epoch, environment, lease: lease.token, clientId: newId() };
  if (seed !== undefined) beginning.seed = seed;

  let { outcome } = await host.Reset(beginning);
  let sum = 0;
  while (!outcome.terminated && !outcome.truncated) {
    const action = toValue(act(fromValue(outcome.observation, info.observationSpace)));
    // The same index and action again would get the same reply: a call whose answer was lost is simply made again.
    ({ outcome } = await host.Step({ episodeId, epoch, index: outcome.index + 1, action }));
    sum += outcome.reward;
  }
  await host.Close({ episodeId, epoch });
  hangUp(host);
  return { environment: lease.environment, steps: outcome.index, return: sum, digest: outcome.digest };
}

try {
  console.log(JSON.stringify(await play()));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
