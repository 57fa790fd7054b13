import { OpenAIEmbeddings } from "@langchain/openai";

const [base, model] = process.argv.slice(2);
const configuration = { baseURL: `${base}/v1` };
const embeddings = new OpenAIEmbeddings({ model, apiKey: "none", batchSize: 2, configuration });
const query = await embeddings.embedQuery("a");
const documents = await embeddings.embedDocuments(["a", "b", "c", "d", "e"]);
console.log(JSON.stringify({ query, documents }));
