// The form that immich's server makes: FormData of Node, the image as a Blob without a name or type.
const [base, modelName, image] = process.argv.slice(2);

async function predict(request, payload) {
  const form = new FormData();
  form.append("entries", JSON.stringify(request));
  for (const [name, value] of Object.entries(payload)) {
    form.append(name, value);
  }
  const response = await fetch(new URL("/predict", base), { method: "POST", body: form });
  return response.ok ? response.json() : response.status;
}

const blob = new Blob([new Uint8Array(Buffer.from(image, "base64"))]);
const ping = await fetch(new URL("/ping", base), { signal: AbortSignal.timeout(2000) });
const text = await predict({ clip: { textual: { modelName, options: { language: "en" } } } }, { text: "a" });
const visual = await predict({ clip: { visual: { modelName } } }, { image: blob });
const faces = await predict(
  { "facial-recognition": { detection: { modelName: "buffalo_l", options: { minScore: 0.7 } } } },
  { image: blob },
);
console.log(JSON.stringify({ ok: ping.ok, text, visual, faces }));
