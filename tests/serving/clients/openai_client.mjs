// The openai package of npm: embeddings, models, and rerank and score as its undocumented endpoints.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const OpenAI = createRequire(process.execPath)("openai"); // installed beside node, or where NODE_PATH says

const { base, key, embedder, reranker, query, documents, dimensions } = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key ?? "none", maxRetries: 0 });
const report = {};

async function call(label, make) {
  try {
    report[label] = await make();
  } catch (error) {
    const status = error.status ?? null;
    report[label] = { kind: "error", message: error.message, type: error.constructor.name, status };
  }
}

async function embed(kind, input, options = {}) {
  const response = await client.embeddings.create({ model: embedder, input, ...options });
  return { kind, vectors: response.data.map((item) => Array.from(item.embedding)) };
}

async function score(path, body, listed) {
  const response = await client.post(path, { body: { model: reranker, ...body } });
  const scores = documents.map(() => null);
  for (const item of response[listed]) scores[item.index] = item.relevance_score ?? item.score;
  return { kind: "scores", scores };
}

await call("embeddings", () => embed("documents", documents));
await call("embeddings float", () => embed("documents", documents, { encoding_format: "float" }));
await call("embeddings query", () => embed("query", query, { model: `${embedder}:query` }));
if (dimensions) await call("embeddings dimensions", () => embed("documents", documents, { dimensions }));
await call("models", async () => ({ kind: "info", value: (await client.models.list()).data.map((model) => model.id) }));
await call("rerank", () => score("/rerank", { query, documents }, "results"));
await call("score", () => score("/score", { text_1: query, text_2: documents }, "data"));
await call("unknown model", () => embed("accepted", documents, { model: "no-such-model" }));
await call("token ids", () => embed("accepted", [[1, 2, 3]]));
console.log(JSON.stringify(report));
