import OpenAI from "openai";

const [base, model] = process.argv.slice(2);
const rows = [];
let refusal;
for (const baseURL of [`${base}/v1`, `${base}/v1/`, base]) {
  const client = new OpenAI({ apiKey: "none", baseURL });
  for (const options of [{}, { encoding_format: "float" }, { encoding_format: "base64" }]) {
    const answer = await client.embeddings.create({ model, input: ["a", "b"], ...options });
    rows.push(answer.data.map(each => each.embedding));
  }
  try {
    await client.embeddings.create({ model: "another", input: "a" });
  } catch (error) {
    refusal = [error.constructor.name, error.status, error.code];
  }
}
const listed = (await new OpenAI({ apiKey: "none", baseURL: `${base}/v1` }).models.list()).data;
console.log(JSON.stringify({ rows, refusal, listed: listed.map(each => each.object) }));
