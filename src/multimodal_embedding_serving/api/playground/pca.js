// Principal components: the two directions in which vectors differ most.

const ITERATIONS = 60;
const MAX_FITTED = 1000; // vectors that the directions are computed from

const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
};

/** Vectors of one length -> [[x, y]] for each, centered. */
export function project(vectors) {
  if (!vectors.length) return [];
  const mean = average(vectors);
  const centered = vectors.map(vector => vector.map((value, i) => value - mean[i]));
  const step = Math.ceil(vectors.length / MAX_FITTED);
  const sample = centered.filter((_, index) => index % step === 0);
  const first = component(sample, []);
  const second = component(sample, [first]);
  return centered.map(vector => [dot(vector, first), dot(vector, second)]);
}

export function average(vectors) {
  const sum = new Float64Array(vectors[0].length);
  for (const vector of vectors) for (let i = 0; i < sum.length; i += 1) sum[i] += vector[i];
  return sum.map(value => value / vectors.length);
}

/** The direction of the largest variance at right angles to `others`, by power iteration. */
function component(vectors, others) {
  const size = vectors[0].length;
  // A start that is the same each time, and at right angles to nothing in particular.
  let direction = Float64Array.from({ length: size }, (_, i) => Math.sin(i * 12.9898 + 1));
  for (let round = 0; round < ITERATIONS; round += 1) {
    const next = new Float64Array(size);
    for (const vector of vectors) {
      const weight = dot(vector, direction);
      for (let i = 0; i < size; i += 1) next[i] += weight * vector[i];
    }
    for (const other of others) {
      const along = dot(next, other);
      for (let i = 0; i < size; i += 1) next[i] -= along * other[i];
    }
    const length = Math.sqrt(dot(next, next));
    if (length < 1e-12) return new Float64Array(size); // no variance left
    direction = next.map(value => value / length);
  }
  return direction;
}
