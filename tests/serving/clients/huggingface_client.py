"""The InferenceClient of huggingface_hub, as against a server of Text Embeddings Inference."""

import os

os.environ.update(HF_HUB_OFFLINE="0", HF_HUB_DISABLE_TELEMETRY="1")  # offline would refuse the server as well

import client_calls as calls
from client_calls import BASE, DIMENSIONS, DOCUMENTS, KEY, QUERY
from huggingface_hub import InferenceClient

client = InferenceClient(base_url=BASE, api_key=KEY, provider="hf-inference")  # get_endpoint_info wants the provider
embed_route = InferenceClient(model=f"{BASE}/embed", token=KEY)

calls.documents("feature_extraction", lambda: client.feature_extraction(DOCUMENTS))
calls.documents(
    "feature_extraction options", lambda: client.feature_extraction(DOCUMENTS, normalize=True, truncate=True)
)
calls.documents("feature_extraction embed route", lambda: embed_route.feature_extraction(DOCUMENTS))
calls.documents(
    "feature_extraction one by one", lambda: [row for text in DOCUMENTS for row in client.feature_extraction(text)]
)
calls.query("feature_extraction query", lambda: client.feature_extraction(QUERY, prompt_name="query")[0])
if DIMENSIONS:
    calls.documents(
        "feature_extraction dimensions", lambda: client.feature_extraction(DOCUMENTS, dimensions=DIMENSIONS)
    )
calls.info("get_endpoint_info", client.get_endpoint_info)
calls.info("health_check", client.health_check)
calls.error("unknown prompt", lambda: client.feature_extraction(DOCUMENTS, prompt_name="no-such-prompt"))
if calls.REQUEST["key"]:
    calls.error("wrong key", lambda: InferenceClient(BASE, token="wrong").feature_extraction(DOCUMENTS))
calls.report()
