// Vector math and number formatting.

/** Base64 of little-endian float32 -> Float32Array. */
export function decodeVector(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** The cosine similarity; the server's vectors have unit length. */
function cosine(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
}

/** The similarity of two items, and the best vector of the second: a video counts as its best frame. */
export function compare(one, other) {
  let best = { score: -Infinity, frame: 0 };
  for (const a of one.vectors) {
    other.vectors.forEach((b, frame) => {
      const score = cosine(a, b);
      if (score > best.score) best = { score, frame };
    });
  }
  return best;
}

/** The similarity of each frame of a video to a query. */
export const curve = (query, video) =>
  video.vectors.map(vector => compare(query, { vectors: [vector] }).score);

/** The position of a value between the lowest and the highest: 0 to 1. */
export function share(value, low, high) {
  return high > low ? (value - low) / (high - low) : 1;
}

export const formatScore = value => value.toFixed(3);

/** A score from 0 to 1 as a percentage. */
export const formatMatch = value => (value < 0.01 ? "<1%" : `${Math.round(100 * value)}%`);

export const count = (number, one, many = `${one}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** About two significant digits: 0.42, 7.3, 85, 1,240. */
export function rough(number) {
  if (number >= 10) return Math.round(number).toLocaleString("en");
  return number.toFixed(number >= 1 ? 1 : 2);
}

/** A position in a video: 0:03.5, 1:02:07.0. */
export function moment(seconds) {
  const tenths = Math.round(seconds * 10);
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** A duration: 8 s, 3 min. */
export function duration(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
