// The cohere-ai package of npm: its clients of the version 2 and the version 1 routes.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// installed beside node, or where NODE_PATH says
const { CohereClient, CohereClientV2 } = createRequire(process.execPath)("cohere-ai");

const { base, key, embedder, reranker, query, documents, dimensions } = JSON.parse(readFileSync(0, "utf8"));
const options = { environment: base, token: key ?? "none", maxRetries: 0 };
const [v2, v1] = [new CohereClientV2(options), new CohereClient(options)];
const report = {};

async function call(label, make) {
  try {
    report[label] = await make();
  } catch (error) {
    const status = error.statusCode ?? null;
    report[label] = { kind: "error", message: error.message, type: error.constructor.name, status };
  }
}

async function rerank(client, model = reranker, more = {}) {
  const response = await client.rerank({ model, query, documents, ...more });
  const scores = documents.map(() => null);
  for (const result of response.results) scores[result.index] = result.relevanceScore;
  return { kind: "scores", scores };
}

async function embed(client, kind, texts, inputType, more = {}) {
  const response = await client.embed({ model: embedder, texts, inputType, ...more });
  return { kind, vectors: response.embeddings.float ?? response.embeddings };
}

const float = { embeddingTypes: ["float"] };
await call("v2 rerank", () => rerank(v2));
await call("v2 rerank topN", () => rerank(v2, reranker, { topN: documents.length, maxTokensPerDoc: 4096 }));
await call("v2 embed", () => embed(v2, "documents", documents, "search_document", float));
await call("v2 embed query", () => embed(v2, "query", [query], "search_query", float));
if (dimensions) {
  const more = { ...float, outputDimension: dimensions };
  await call("v2 embed dimensions", () => embed(v2, "documents", documents, "search_document", more));
}
await call("v1 rerank", () => rerank(v1, reranker, { returnDocuments: true }));
await call("v1 embed", () => embed(v1, "documents", documents, "search_document"));
await call("v1 embed query", () => embed(v1, "query", [query], "search_query"));
await call("v1 embed by type", () => embed(v1, "documents", documents, "search_document", float));
await call("v2 rerank unknown model", () => rerank(v2, "no-such-model"));
await call("v1 embed unknown model", () =>
  embed(v1, "accepted", documents, "search_document", { model: "no-such-model" }),
);
console.log(JSON.stringify(report));
