"""ROUGE of each prediction against one or several references, as a local `evaluate` module."""

import datasets
import evaluate
from rouge_score import rouge_scorer, tokenizers

KINDS = ["rouge1", "rouge2", "rougeL"]


class _Remembering(tokenizers.Tokenizer):
    """The standard tokenizer with Porter stemming; a text met before is not stemmed again."""

    def __init__(self):
        self.plain, self.known = tokenizers.DefaultTokenizer(use_stemmer=True), {}

    def tokenize(self, text):
        if text not in self.known:
            self.known[text] = self.plain.tokenize(text)
        return self.known[text]


class RougeByExample(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="F-measure of ROUGE-1, -2 and -L for each example, averaged over its references.",
            citation="Lin, C.-Y. (2004). ROUGE: A Package for Automatic Evaluation of Summaries.",
            inputs_description="predictions: list of str; references: list of lists of str.",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions, references, kinds=tuple(KINDS)):
        if not hasattr(self, "tokenizer"):
            self.tokenizer = _Remembering()
        scorer, result = rouge_scorer.RougeScorer(list(kinds), tokenizer=self.tokenizer), {kind: [] for kind in kinds}
        for text, targets in zip(predictions, references):
            scores = [scorer.score(target, text) for target in targets]
            for kind in kinds:
                result[kind].append(sum(s[kind].fmeasure for s in scores) / len(scores))
        return result
