import { CohereClientV2 } from "cohere-ai";

const [base, model, image] = process.argv.slice(2);
const client = new CohereClientV2({ token: "none", environment: base, baseUrl: base });
const options = { model, embeddingTypes: ["float", "int8"] };
const texts = await client.embed({ ...options, texts: ["a", "b"], inputType: "search_document" });
const images = await client.embed({ ...options, images: [image], inputType: "image" });
let refusal;
try {
  await client.embed({ ...options, model: "another", texts: ["a"], inputType: "search_query" });
} catch (error) {
  refusal = [error.constructor.name, error.statusCode];
}
console.log(JSON.stringify({ texts: texts.embeddings, images: images.embeddings, refusal }));
