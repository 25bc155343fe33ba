"""What a job will cost is told before it runs: counts are those of real runs, and nothing more costs less."""

import math
from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import scans
from udig_recon.core import formats, inputs, reconstruct
from udig_recon.core import slice_order as volumes
from udig_recon.core.acquisition import Modality
from udig_recon.core.algorithms import initial_estimate
from udig_recon.core.coils import joint_maps
from udig_recon.core.cost import estimate as cost
from udig_recon.core.cost import evaluations
from udig_recon.core.cost.counter import CostCounter
from udig_recon.core.cost.estimate import PriorSize, Size, Task, memory_bytes
from udig_recon.core.cost.evaluations import of_run
from udig_recon.core.operators import MultiCoilMRI, XRayTransform
from udig_recon.core.parameters import METHODS, PRESETS, UDiGDIP, complete, parse
from udig_recon.core.priors.card import find_card
from udig_recon.core.priors.load import load_prior
from udig_recon.core.problem import slice_problem

CPU = torch.device("cpu")
COILS = 3
SHORT = {"iterations": 6, "outer_iterations": 6, "mask_iterations": 4, "steps": 6, "warm_up": 0}
TO_THE_END = {"patience": 1.0, "discrepancy": 0.0, "variance_patience": 100_000}
FURTHER = [
    {"method": "dps", "samples": 3},
    {"method": "daps", "langevin_steps": 0, "samples": 2},
    {"method": "daps", "prior_calls": 3},
    {"method": "dcdp", "prior_calls": 2},
    {"method": "score_mri", "coils": "separate"},
    {"method": "udig_dip", "preset": "preview"},
    {"method": "udig_dip", "holdout_share": 0.1, "inner_iterations": 2, "samples": 2},
    {"method": "udig_dip", "preset": "paper", "prior_calls": 2},
    {"method": "udig_dip", "output": "consistent", "purification_period": 2},
    {"method": "cg_sense", "refit": False},
    {"method": "tv", "weight": 1e-3},
]


def shortened(knobs, modality):
    fields = METHODS[knobs["method"]].model_fields
    short = {name: value for name, value in {**SHORT, **TO_THE_END}.items() if name in fields}
    return complete(parse(short | knobs), modality)


@pytest.fixture(scope="module", params=list(Modality))
def problem(request, tmp_path_factory):
    parts = scans.mri(slices=1, coils=COILS) if request.param is Modality.MRI else scans.ct(slices=1)
    parts["guide"] = parts["reconstruction_rss"] if "reconstruction_rss" in parts else parts["reference"]
    path = scans.write_hdf5(tmp_path_factory.mktemp("scan") / "scan", **parts)
    return slice_problem(formats.read(path), 0, CPU)


@pytest.fixture
def normals(monkeypatch):
    """How often A^H A is applied to an image, through all coils; one of A and A^H alone counts half."""
    counted = [0.0]

    def counting(kind, name, weight):
        plain = getattr(kind, name)

        def counted_call(operator, x):
            share = operator.coils / COILS if kind is MultiCoilMRI else 1.0
            counted[0] += weight * share * len(x)
            return plain(operator, x)

        monkeypatch.setattr(kind, name, counted_call)

    for name, weight in (("_forward", 0.5), ("_adjoint", 0.5), ("_normal", 1.0)):
        counting(MultiCoilMRI, name, weight)
    for name in ("_forward", "_adjoint"):
        counting(XRayTransform, name, 0.5)
    return counted


@pytest.mark.long
@pytest.mark.parametrize("knobs", [*({"method": name} for name in METHODS), *FURTHER], ids=str)
def test_a_run_to_its_end_evaluates_what_was_counted_before_and_no_more(problem, normals, knobs):
    if problem.modality not in METHODS[knobs["method"]].modalities:
        return
    method = shortened(knobs, problem.modality)
    told = of_run(method, COILS)
    meter = CostCounter(CPU)
    prior = load_prior(getattr(method, "prior", None), problem.modality, None, CPU) if method.needs_prior else None
    with meter.counting(prior):
        for _ in reconstruct.reconstruct(problem, method, seed=0):
            pass
    draws = getattr(method, "draws", 1) * (method.samples if isinstance(method, UDiGDIP) else 1)
    pairs = {
        "normals": (told.normals, normals[0]),
        "prior calls": (told.prior_calls + told.prior_gradients, meter.prior_evaluations),
        "updates": ((told.unet_updates + told.residual_updates) / draws, meter.optimizer_steps),
    }
    for what, (before, after) in pairs.items():
        # The second run of a watched method ends where the first was best, conjugate gradients where they are done.
        assert after <= 1.15 * before + 12, what
        assert before <= 2.5 * after + 60, what


def test_direct_methods_make_no_initial_estimate(problem, normals):
    method = complete(parse({"method": "zero_filled" if problem.modality is Modality.MRI else "fbp"}), problem.modality)
    told = of_run(method, COILS)
    *_, last = reconstruct.reconstruct(problem, method, seed=0)
    assert normals[0] <= told.normals < inputs.INITIAL_CG_ITERATIONS
    torch.testing.assert_close(last.image, problem.direct())


def test_the_counts_are_made_with_the_numbers_of_the_algorithms():
    tv, wavelet, judged = (
        import_module(f"udig_recon.core.algorithms.{name}") for name in ("tv", "l1_wavelet", "udig_dip_guarded")
    )
    assert {len(tv.WEIGHTS), len(wavelet.WEIGHTS)} == {evaluations.TRIED_WEIGHTS}
    assert tv.TRIAL_ITERATIONS == evaluations.TV_TRIAL_ITERATIONS
    assert tv.INNER_ITERATIONS == evaluations.TV_INNER_ITERATIONS
    assert wavelet.TRIAL_ITERATIONS == evaluations.WAVELET_TRIAL_ITERATIONS
    assert (judged.ALONE.tv, judged.WARM_STARTED.tv) == (evaluations.TV_ALONE, evaluations.TV_FOLLOWING)
    assert (judged.TRIAL_SHARE, judged.WARM_STARTED.final) == (evaluations.TRIAL_SHARE, evaluations.FINAL_FOLLOWING)
    assert inputs.INITIAL_CG_ITERATIONS == evaluations.START_CG_ITERATIONS
    assert initial_estimate.SIRT_ITERATIONS == evaluations.START_SIRT_ITERATIONS
    rounds = joint_maps.ROUNDS + 1
    fitted = 2 * rounds * (joint_maps.IMAGE_ITERATIONS + joint_maps.MAP_ITERATIONS + 2)
    assert fitted == pytest.approx(evaluations.JOINT_MAPS_NORMALS, rel=0.1)


def test_fits_of_the_maps_to_purified_images_cost_time_where_there_are_several_coils():
    kept, refitted, seldom = (complete(UDiGDIP(maps_period=period), Modality.MRI) for period in (0, 5, 50))
    several, alone = ([of_run(method, coils).normals for method in (kept, seldom, refitted)] for coils in (8, 1))
    assert several == sorted(set(several))
    assert len(set(alone)) == 1
    assert of_run(refitted, 8, follows=True).normals > of_run(kept, 8, follows=True).normals


MRI_SIZE = Size(Modality.MRI, 128 * 128, 128 * 128, coils=8, makes_maps=True)
CT_SIZE = Size(Modality.CT, 128 * 128, 128 * 128, entries=128 * 128 * 60 * 2.3)
MORE = ("iterations", "outer_iterations", "steps", "samples", "inner_iterations", "prior_calls", "langevin_steps")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [MRI_SIZE, CT_SIZE], ids=lambda size: size.modality)
def test_more_of_anything_costs_no_less(name, size):
    if size.modality not in METHODS[name].modalities:
        return
    method = complete(parse({"method": name}), size.modality)
    plain = Task(method, size, slices=4).estimate
    larger = [
        Task(method, size, slices=8).estimate,
        Task(method, size, slices=4, seeds=3).estimate,
        *(
            Task(method.model_copy(update={knob: 2 * getattr(method, knob) + 1}), size, slices=4).estimate
            for knob in MORE
            if knob in METHODS[name].model_fields and (name, knob) != ("aseq_dip", "inner_iterations")
        ),
        Task(method, Size(**{**vars(size), "pixels": 4 * size.pixels}), slices=4).estimate,
        Task(method, Size(**{**vars(size), "coils": 16, "entries": 2 * size.entries}), slices=4).estimate,
        Task(method, size, slices=4, prior=PriorSize(1e7, 1000)).estimate,
    ]
    for more in larger:
        assert more.seconds >= plain.seconds > 0
        assert more.memory_bytes >= plain.memory_bytes > 0
        assert more.result_bytes >= plain.result_bytes > 0
    followed = Task(method, size, slices=4, followers=3).estimate
    assert 0 < followed.seconds <= plain.seconds


@given(st.integers(1, 1024), st.integers(1, 64), st.floats(0.1, 1e7))
def test_what_would_fit_fits_and_one_more_would_not(slices, seeds, limit):
    task = Task(parse({"method": "dip"}), MRI_SIZE, slices=slices, seeds=seeds)
    for name, most, wanted in (
        ("slices", task.most_slices(limit), slices),
        ("seeds", task.most_seeds(limit), seeds),
    ):
        assert 0 <= most <= wanted
        assert most == 0 or task.seconds(**{name: most}) <= limit
        assert most == wanted or task.seconds(**{name: most + 1}) > limit


def test_the_jobs_that_stopped_the_service_are_seen_for_what_they_are():
    tiny = Size(Modality.MRI, 32 * 32, 32 * 32, coils=4)
    days = Task(parse({"method": "dip", "iterations": 99_999}), tiny, slices=1, seeds=64).estimate.seconds / 86_400
    assert days > 2
    wide = Size(Modality.MRI, 256 * 256, 256 * 256, coils=8)
    assert memory_bytes(parse({"method": "dps", "samples": 64}), wide) > 7 << 30
    task = Task(parse({"method": "dps", "samples": 64}), wide, slices=1)
    fitting = task.most_samples(2 << 30)
    assert 1 < fitting < 64
    assert memory_bytes(parse({"method": "dps", "samples": fitting}), wide) <= 2 << 30


def test_the_paper_costs_more_than_the_default_and_that_more_than_the_preview():
    for modality, size in ((Modality.MRI, MRI_SIZE), (Modality.CT, CT_SIZE)):
        assert {("paper", modality), ("standard", modality), ("preview", modality)} <= set(PRESETS)
        seconds = [
            Task(complete(UDiGDIP(preset=preset), modality), size, slices=1).estimate.seconds
            for preset in ("paper", "standard", "preview")
        ]
        assert seconds == sorted(seconds, reverse=True)


def test_the_bundled_priors_cost_what_the_numbers_say():
    for modality in Modality:
        found = PriorSize.of(find_card(None, modality))
        assert found.products == pytest.approx(PriorSize().products, rel=0.2)
        assert found.channels == pytest.approx(PriorSize().channels, rel=0.2)


@pytest.mark.parametrize("name", ["fastmri", "sinogram"])
def test_a_scans_header_tells_the_size(tmp_path, name):
    scans.GOOD[name](tmp_path / "scan")
    header = formats.probe(tmp_path / "scan")
    size = Size.of(vars(header))
    assert size.shown_pixels == math.prod(header.matrix)
    assert size.pixels >= size.shown_pixels
    assert (size.coils > 1) == (header.modality is Modality.MRI)
    assert (size.entries > 0) == (header.modality is Modality.CT)


def test_leaders_of_a_volume_are_counted_apart():
    method = complete(UDiGDIP(), Modality.MRI)
    followers = len(volumes.reference_slices(range(16), method))
    assert 0 < followers < 16
    assert Task(method, MRI_SIZE, 16, followers=followers).seconds() < Task(method, MRI_SIZE, 16).seconds()
    assert cost.Task(method, MRI_SIZE, 16).seconds(slices=8) < Task(method, MRI_SIZE, 16).seconds()
