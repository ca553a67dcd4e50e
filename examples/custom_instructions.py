"""Say what makes a passage relevant: by a preset, by a name of your own, or in a sentence.

python examples/custom_instructions.py                 # the demo reranker, which follows instructions loosely
python examples/custom_instructions.py --model 0.6b
"""

import argparse

from qwen3_rag import Reranker

QUERY = "my flight was cancelled"
PASSAGES = [
    "If your flight is cancelled, you may have the ticket refunded within seven days.",
    "My flight was cancelled too, and I slept on the floor of the airport.",
    "Flights to the island leave on Mondays.",
]


def main() -> None:
    """Rank the same passages under several instructions."""
    parser = argparse.ArgumentParser(description="Rank passages under several instructions")
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    own = {"policy": "Given a customer's problem, retrieve the rule of the company that solves it"}
    reranker = Reranker(options.model, instructions=own)
    sentence = "Given a traveller's story, retrieve stories of others who lived through the same"
    for instruction in (None, "policy", sentence):
        print(instruction or "the default instruction")
        for place in reranker.rank(QUERY, PASSAGES, instruction=instruction, return_documents=True):
            print(f"  {place.score:.3f}  {place.text}")


if __name__ == "__main__":
    main()
