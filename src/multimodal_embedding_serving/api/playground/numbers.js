// Vectors and how numbers are written.

/** Base64 of little-endian float32 -> Float32Array. */
export function decodeVector(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** The cosine: the server's vectors are of unit length. */
function cosine(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
}

/** How alike two things are, and by which vector of the second: a film counts by its best frame. */
export function compare(one, other) {
  let best = { score: -Infinity, frame: 0 };
  for (const mine of one.vectors) {
    other.vectors.forEach((theirs, frame) => {
      const score = cosine(mine, theirs);
      if (score > best.score) best = { score, frame };
    });
  }
  return best;
}

/** The likeness of every vector of a film to a query. */
export const curve = (query, film) =>
  film.vectors.map(vector => compare(query, { vectors: [vector] }).score);

/** Where a value lies between the least and the greatest: 0 to 1. */
export function share(value, low, high) {
  return high > low ? (value - low) / (high - low) : 1;
}

export const likeness = value => value.toFixed(3);

export const count = (number, one, many = `${one}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** Two digits that matter: 0.42, 7.3, 85, 1,240. */
export function rough(number) {
  if (number >= 10) return Math.round(number).toLocaleString("en");
  return number.toFixed(number >= 1 ? 1 : 2);
}

/** A moment of a film: 0:03.5, 1:02:07.0. */
export function moment(seconds) {
  const tenths = Math.round(seconds * 10);
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** A duration in words: 8 s, 3 min. */
export function duration(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
