"""Small files in the forms that the published jets have: tables, and the folder of the hls4ml tutorial."""

import numpy as np

from dyadiq.zoo.jets_features import CLASSES, FEATURES


def jets(n, seed=0):
    """Return raw features in float32 and class names, every class among each ten."""
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, (n, len(FEATURES))).astype(np.float32)
    return x, np.array([CLASSES[(3 * k) % 5] for k in range(n)])


def rows(x, names, order=FEATURES):
    columns = [FEATURES.index(name) for name in order]
    return [[repr(float(row[c])) for c in columns] + [str(name)] for row, name in zip(x, names, strict=True)]


def write_arff(file, x, names, *, order=FEATURES, label="class", quote=""):
    lines = ["% hls4ml LHC jets", "@RELATION hls4ml_lhc_jets_hlf", ""]
    lines += [f"@ATTRIBUTE {quote}{name}{quote} REAL" for name in order]
    lines += [f"@ATTRIBUTE {label} {{g, q, w, z, t}}", "", "@DATA"]
    lines += [",".join([*row[:-1], quote + row[-1] + quote]) for row in rows(x, names, order)]
    file.write_text("\n".join(lines) + "\n")
    return file


def write_csv(file, x, names, *, order=FEATURES, label="class"):
    lines = [[*order, label], *rows(x, names, order)]
    file.write_text("\n".join(",".join(line) for line in lines) + "\n")
    return file


def write_tutorial(folder, *, n_train=80, n_test=40, **changes):
    """Write the tutorial's arrays; a change replaces an array, None leaves the file out."""
    folder.mkdir(exist_ok=True)
    arrays = {}
    for part, n, seed in (("train_val", n_train, 1), ("test", n_test, 2)):
        x, names = jets(n, seed)
        mean, std = arrays.get("statistics", (x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)))
        arrays["statistics"] = mean, std
        arrays[f"X_{part}"] = (x - mean) / std
        arrays[f"y_{part}"] = np.eye(5)[[CLASSES.index(name) for name in names]]
    del arrays["statistics"]
    arrays["classes"] = np.array(CLASSES, dtype=object)
    for name, array in (arrays | changes).items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return folder
