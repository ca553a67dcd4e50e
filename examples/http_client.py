"""A server of the demo models, and requests to it as other programs make them. Offline: no hub, no GPU."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2

PROGRAM = Path(sys.executable).with_name("qwen3-rag")
MODELS = ["--reranker", "demo-minilm", "--embedder", "demo"]
DOCUMENTS = ["The warranty covers parts for two years.", "Tides follow the moon.", "Parts are shipped from Rotterdam."]


def main() -> None:
    """Start the server, ask it in three dialects, and stop it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen([PROGRAM, "--quiet", "serve", *MODELS, "--port", port])
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, server)
            body = {"query": "How long are parts covered?", "documents": DOCUMENTS, "top_n": 2}
            for row in client.post("/v2/rerank", json=body).raise_for_status().json()["results"]:
                print(f"{row['relevance_score']:.3f} {DOCUMENTS[row['index']]}")
            models = client.get("/v1/models").raise_for_status().json()["data"]
            (name,) = [row["id"] for row in models if row["task"] == "embed queries"]
            reply = client.post("/v1/embeddings", json={"model": name, "input": body["query"]}).raise_for_status()
            print(f"a query of {len(reply.json()['data'][0]['embedding'])} values")
            print(client.post("/rerank", json={"query": "?", "texts": []}).json()["error"])
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(client: httpx2.Client, server: "subprocess.Popen[bytes]") -> None:
    """Wait until the models are loaded."""
    while server.poll() is None:
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx2.ConnectError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
