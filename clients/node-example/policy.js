// A policy for two environments: it balances a pole, and says "go" to everything else.

/** CartPole's observation is [position, velocity, angle, angular velocity]; 1 pushes to the right, 0 to the left. */
export function act(observation) {
  if (observation instanceof Float32Array) {
    const [, , angle, rate] = observation;
    return angle + rate > 0 ? 1 : 0;
  }
  return "go";
}
