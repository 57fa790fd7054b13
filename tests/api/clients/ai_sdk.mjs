import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany } from "ai";

const [base, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "mmes", apiKey: "none", baseURL: `${base}/v1` });
const embedding = provider.embeddingModel(model);
const one = await embed({ model: embedding, value: "a" });
const many = await embedMany({ model: embedding, values: ["a", "b", "c"] });
let refusal;
try {
  await embed({ model: provider.embeddingModel("another"), value: "a" });
} catch (error) {
  refusal = [error.statusCode, error.message];
}
console.log(JSON.stringify({ one: one.embedding, many: many.embeddings, usage: one.usage, refusal }));
