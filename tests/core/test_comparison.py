"""Methods held against each other: tables, ranking, and the command that runs them."""

import csv
import io
import itertools
import math
import subprocess
import sys

import pytest

from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.entries import Entry
from udig_recon.core.comparison.ranking import holm, rank_methods, render_rankings
from udig_recon.core.comparison.tables import TABLE_1, TableForm, render, statistics_of


def entry(method: str, psnr: float | None, *, sampling: str = "4x", scan: str = "", number: int = 0, seed: int = 0):
    return Entry(
        method=method,
        scan=scan or f"scan-{sampling}",
        sampling=sampling,
        slice=number,
        seed=seed,
        psnr=psnr,
        ssim=None if psnr is None else psnr / 50,
        nmse=0.01,
        data_residual=0.02,
        seconds=2.0,
        prior_evaluations=30,
        optimizer_steps=0,
    )


def line_of(table: str, method: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_is_mean_and_standard_deviation_over_scans_and_seeds_beside_the_printed_figure():
    entries = [entry("udig_dip", psnr, seed=seed) for seed, psnr in enumerate((30.0, 32.0, 34.0))]
    cells = line_of(render(entries, TableForm.MD), "udig_dip")
    assert cells[1] == "32.00 ± 2.00 [34.46 ± 0.02]"
    assert cells[2] == "0.640 ± 0.040 [0.932]"
    assert cells[3:] == ["2.0 ± 0.0 [210.0]", "30 [300000]", "0 [4000]"]


def test_one_value_has_no_deviation_and_what_is_unknown_is_left_out():
    cells = line_of(render([entry("dds", 30.0), entry("dds", None, seed=1)], TableForm.MD), "dds")
    assert cells[1] == "30.00"
    assert statistics_of([None, math.nan, math.inf]) is None


def test_all_forms_tell_the_same_of_every_method_and_sampling():
    entries = [entry(m, 30.0, sampling=s) for m, s in itertools.product(("dip", "tv"), ("8x", "4x", "18 views"))]
    rows = list(csv.DictReader(io.StringIO(render(entries, TableForm.CSV))))
    assert [(row["sampling"], row["method"]) for row in rows] == [
        ("4x", "dip"), ("8x", "dip"), ("4x", "tv"), ("8x", "tv"), ("18 views", "dip"), ("18 views", "tv")
    ]  # fmt: skip
    assert {row["psnr_mean"] for row in rows} == {"30.0"}
    assert rows[0]["paper_psnr"] == str(TABLE_1["dip", "4x"].psnr)
    for form in (TableForm.MD, TableForm.TEX):
        table = render(entries, form)
        assert all(sampling in table for sampling in ("4x", "8x", "18 views"))
        assert table.count("30.00") == len(entries)


def test_labels_cannot_break_a_table():
    label = r"tv weight=1|2 & 50% of \x_y"
    assert r"1\|2" in render([entry(label, 30.0)], TableForm.MD)
    tex = render([entry(label, 30.0)], TableForm.TEX)
    assert r"1|2 \& 50\% of \textbackslash{}x\_y" in tex
    assert {line.count("&") - line.count(r"\&") for line in tex.splitlines() if r"\\" in line} == {1, 5}


def test_published_results_fall_with_the_data():
    for method in {method for method, _ in TABLE_1}:
        for more, less in (("4x", "8x"), ("30 views", "18 views")):
            if (method, more) in TABLE_1:
                assert TABLE_1[method, more].psnr > TABLE_1[method, less].psnr
                assert TABLE_1[method, more].ssim > TABLE_1[method, less].ssim


def test_a_ranking_is_by_mean_psnr_of_each_modality():
    entries = [entry("tv", 30.0), entry("dip", 25.0), entry("fbp", 20.0, sampling="30 views")]
    mri, ct = rank_methods(entries)
    assert [(each.rank, each.method) for each in mri.methods] == [(1, "tv"), (2, "dip")]
    assert (ct.modality, [each.method for each in ct.methods]) == (Modality.CT, ["fbp"])


def test_pairs_are_of_the_same_slice_and_the_seeds_of_a_slice_count_once():
    entries = [
        entry(method, 30.0 + gain + number + 0.1 * seed, number=number, seed=seed)
        for method, gain in (("a", 1.0), ("b", 0.0))
        for number in range(8)
        for seed in range(3)
    ]
    (ranking,) = rank_methods(entries)
    second = ranking.methods[1]
    assert (second.method, second.n_slices) == ("b", 8)
    assert second.difference == pytest.approx(-1.0)
    assert second.p == pytest.approx(ranking.min_p) == pytest.approx(2**-7)
    assert "n = 8;" in ranking.note


def test_a_method_is_ranked_only_on_the_slices_of_all():
    entries = [entry("a", 30.0, number=number) for number in range(3)] + [entry("easy", 50.0, number=0)]
    methods = rank_methods(entries)[0].methods
    assert [(each.method, each.rank) for each in methods] == [("a", 1), ("easy", None)]
    assert methods[1].p is None


def test_few_slices_are_said_to_be_too_few():
    entries = [
        entry(method, psnr + number, number=number) for method, psnr in (("a", 31.0), ("b", 30.0)) for number in (0, 1)
    ]
    (ranking,) = rank_methods(entries)
    assert "too few to tell" in ranking.note
    assert ranking.note in render_rankings([ranking])


def test_methods_that_agree_everywhere_are_not_tested():
    (ranking,) = rank_methods([entry("a", 30.0), entry("b", 30.0)])
    assert ranking.methods[1].p is None


def test_correction_is_holms():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_the_tables_load_neither_torch_nor_scipy():
    names = ", ".join(f"udig_recon.core.comparison.{name}" for name in ("entries", "ranking", "tables"))
    script = f"import sys, {names}; print({{'torch', 'scipy'}} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout == "set()\n"
    )
