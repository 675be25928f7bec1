"""Files classified by an exported model: ``lt25 classify``."""

import json
from collections.abc import Sequence

from lt25.evaluation.named_files import complain_of_unread, named_files, read_named
from lt25.exported import exported_model
from lt25.importing import without_compiler, without_garbage


def classify(name: str, paths: Sequence[str], stream: bool = False, as_json: bool = False) -> None:
    """Print the class of each file, and its probability.

    Args:
        name: an experiment whose model is exported, or a model's folder.
        paths: files, folders whose files are meant, and "-" for a file on standard input; none: standard input.
        stream: print also what the answer is after each tenth of the sequence.
        as_json: print an object a line, with the probabilities of all classes, in place of a table.

    Raises:
        UserError: if there is no such model, or once all others are answered, for files that cannot be read, a line each.
    """
    folder, _ = exported_model(name, "classification")
    found = named_files("lt25 classify", paths)
    with without_garbage(), without_compiler():
        from lt25.evaluation.answers import Classifier

    classifier, failed = Classifier(folder), []
    width = max(len(label) for label in classifier.labels)
    for file in found:
        try:
            features = classifier.features(read_named(file))
        except ValueError as error:
            failed.append(f"{file}: {error}")
            continue
        for part, probabilities in classifier.answers(features, stream):
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            label = classifier.labels[best]
            if as_json:
                all_of_them = dict(zip(classifier.labels, probabilities, strict=True))
                answer = {"file": file, "label": label, "probability": probabilities[best]}
                read = {"read": part} if stream else {}
                print(json.dumps({**answer, **read, "probabilities": all_of_them}), flush=True)
            else:
                read = f"  after {part:4.0%}" if stream else ""
                print(f"{file}{read}  {label:{width}}  {probabilities[best]:6.1%}", flush=True)
    complain_of_unread(failed)
