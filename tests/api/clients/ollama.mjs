import { Ollama } from "ollama";

const [base, model] = process.argv.slice(2);
const client = new Ollama({ host: base });
const answer = await client.embed({ model, input: ["a", "b"], truncate: true, keep_alive: "5m" });
const one = await client.embed({ model: `${model}:latest`, input: "a" });
const old = await client.embeddings({ model, prompt: "a" });
let refusal;
try {
  await client.embed({ model: "llama3", input: "a" });
} catch (error) {
  refusal = [error.status_code, error.message];
}
const listed = (await client.list()).models.map(each => each.model);
const shown = (await client.show({ model })).capabilities;
console.log(JSON.stringify({ answer, one: one.embeddings, old: old.embedding, refusal, listed, shown }));
