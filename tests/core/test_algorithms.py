"""Every method on small problems of both modalities: it reconstructs, and repeats bit for bit."""

import io
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from udig_recon.core.acquisition import Modality
from udig_recon.core.algorithms import run
from udig_recon.core.errors import MissingPrior
from udig_recon.core.inputs import Inputs
from udig_recon.core.operators import MultiCoilMRI, XRayTransform
from udig_recon.core.parameters import (
    DAPS,
    DCDP,
    DDS,
    DIP,
    DPS,
    ESDIP,
    FBP,
    MCG,
    METHODS,
    OES,
    SIRT,
    TV,
    TVDIP,
    ASeqDIP,
    CGSense,
    DiffPIR,
    DIPProbe,
    L1Wavelet,
    REDDiff,
    RefGuidedDIP,
    ScoreMRI,
    SelfGuidedDIP,
    UDiGDIP,
    ZeroFilled,
    complete,
)
from udig_recon.core.slice_order import WarmStart

QUICK = {"outer_iterations": 4, "inner_iterations": 2, "holdout_share": 0.0, "start": "cg_sense"}
CASES = [
    (ZeroFilled(), Modality.MRI),
    (CGSense(iterations=5), Modality.MRI),
    (FBP(), Modality.CT),
    (SIRT(iterations=6), Modality.CT),
    (TV(iterations=3), Modality.MRI),
    (TV(iterations=3), Modality.CT),
    (TV(weight=0.01, iterations=4), Modality.CT),
    (L1Wavelet(iterations=3, levels=2), Modality.MRI),
    (L1Wavelet(weight=0.01, iterations=4), Modality.MRI),
    (DIP(iterations=5), Modality.MRI),
    (DIP(iterations=5), Modality.CT),
    (UDiGDIP(**QUICK), Modality.MRI),
    (UDiGDIP(**QUICK), Modality.CT),
    (UDiGDIP(preset="paper", **QUICK, prior_calls=3), Modality.MRI),
    (UDiGDIP(preset="paper", **QUICK, prior_calls=3), Modality.CT),
    (UDiGDIP(**QUICK, output="mean", averaging=0.5, purification_period=2, noise_scale=0.5), Modality.MRI),
    (UDiGDIP(**QUICK, samples=2, noise_scale=1.0, noise_until=0.0, output="consistent"), Modality.CT),
    (UDiGDIP(**QUICK, prior_calls=3, sampler="ancestral", noise_scale=1.0, noise_until=0.0), Modality.MRI),
    (UDiGDIP(**{**QUICK, "holdout_share": 0.1}, prior_calls=2), Modality.MRI),
    (UDiGDIP(**{**QUICK, "holdout_share": 0.2, "start": "tv"}, samples=2, noise_scale=1.0), Modality.CT),
    (UDiGDIP(preset="preview", outer_iterations=3, start="fbp"), Modality.CT),
    (UDiGDIP(preset="preview", outer_iterations=3, start="tv"), Modality.MRI),
    *(
        (method, modality)
        for method in (
            DPS(steps=4),
            DDS(steps=4, samples=2),
            DDS(steps=4, schedule="linear_vp", consistency_weight=2.0),
            DAPS(steps=4, prior_calls=2, langevin_steps=3),
            DAPS(steps=4, langevin_steps=0),
            DiffPIR(steps=4, samples=2),
            REDDiff(steps=4, samples=2),
            DCDP(steps=4, prior_calls=2, sampler="ancestral", symmetries=True),
            TVDIP(iterations=4),
            ESDIP(iterations=5, warm_up=1, variance_patience=2),
            ASeqDIP(iterations=5),
            SelfGuidedDIP(iterations=4, draws=2),
            RefGuidedDIP(iterations=4),
            RefGuidedDIP(iterations=4, guide="file", averaging=0.0),
            OES(iterations=3, mask_iterations=3),
            DIPProbe(iterations=4),
            DIPProbe(iterations=4, input_noise=None),
        )
        for modality in Modality
    ),
    (ScoreMRI(steps=4, samples=2), Modality.MRI),
    (ScoreMRI(steps=4, coils="separate"), Modality.MRI),
    (MCG(steps=4), Modality.CT),
]


def called(value):
    return f"{value.method}-{len(value.model_fields_set)}" if hasattr(value, "method") else str(value)


def problem(modality, size=40):
    """A disc with two holes, seen by four coils at half the lines or from twelve angles."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = ((x**2 + y**2) < 0.7) - 0.5 * ((x - 0.3) ** 2 + y**2 < 0.05) - 0.3 * ((x + 0.3) ** 2 + y**2 < 0.1)
    if modality is Modality.CT:
        A = XRayTransform(np.arange(12) * np.pi / 12, size, 60, 1.0, 1.0)
        truth = torch.from_numpy(0.02 * image[None, None]).float()
        return A, A.forward(truth), truth
    centres = [(-1.3, 0.0), (1.3, 0.0), (0.0, 1.3), (0.0, -1.3)]
    maps = np.stack([np.exp(1j * a) / (0.3 + (x - a) ** 2 + (y - b) ** 2) for a, b in centres])
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    mask = np.zeros((size, size), bool)
    mask[:, ::2] = mask[:, size // 2 - 4 : size // 2 + 4] = True
    A = MultiCoilMRI(torch.from_numpy(maps.astype(np.complex64)), torch.from_numpy(mask))
    truth = torch.from_numpy(np.stack([image, 0.2 * image])[None]).float()
    return A, A.forward(truth), truth


def iterates(method, modality, state=None, seed=3, warm_start=None):
    A, y, truth = problem(modality)
    rng = torch.Generator().manual_seed(seed)
    scale = 0.04 if modality is Modality.CT else 1.0
    images = {"reference": truth / scale, "guide": truth[:, :1].sqrt()}
    return run(Inputs(y / scale, A, images, None, warm_start), complete(method, modality), rng, state)


def test_every_method_is_among_the_cases():
    assert {(method.method, modality) for method, modality in CASES} == {
        (name, modality) for name, cls in METHODS.items() for modality in cls.modalities
    }


@pytest.mark.long
@pytest.mark.parametrize(("method", "modality"), CASES, ids=called)
def test_same_seed_gives_the_same_bits(method, modality):
    *_, first = iterates(method, modality)
    *_, second = iterates(method, modality)
    assert first.step == first.steps
    assert torch.equal(first.image, second.image)
    assert bool(first.image.isfinite().all())


def stored(state):
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("warm_start", [None, WarmStart(slice=4, tv_weight=0.01)], ids=["alone", "following"])
def test_a_judged_run_goes_on_from_any_of_its_stages(modality, stage, warm_start):
    knobs = {**QUICK, "outer_iterations": 12, "inner_iterations": 0} if warm_start else QUICK
    method = UDiGDIP(**{**knobs, "holdout_share": 0.1}, noise_scale=0.5)
    run = partial(iterates, method, modality, warm_start=warm_start)
    *_, unbroken = run()
    states = [stored(iterate.state()) for iterate in run() if iterate.state is not None]
    reached = [state for state in states if state["stage"] == stage]
    if stage == 2 and unbroken.prior_check.prior_weight == 0:
        assert not reached  # total variation alone: there is no run on all data
        return
    *_, resumed = run(reached[-1])
    assert torch.equal(resumed.image, unbroken.image)
    assert resumed.prior_check == unbroken.prior_check


@pytest.mark.parametrize("modality", list(Modality))
def test_a_slice_that_follows_is_judged_by_its_own_measurements_and_takes_fewer_steps(modality):
    method = UDiGDIP(preset="preview", outer_iterations=20, holdout_share=0.2, start="tv")
    *_, alone = iterates(method, modality)
    *_, led = iterates(method, modality, warm_start=WarmStart(slice=4, tv_weight=alone.prior_check.tv_weight))
    assert (alone.prior_check.reference_slice, led.prior_check.reference_slice) == (None, 4)
    assert led.prior_check.tv_weight == alone.prior_check.tv_weight
    assert led.prior_check.residuals.keys() == alone.prior_check.residuals.keys()
    assert led.prior_check.validation_residual == pytest.approx(alone.prior_check.validation_residual, abs=0.01)
    assert led.step == led.steps < alone.steps
    assert (led.image - alone.image).norm() < 0.1 * alone.image.norm()


class Wrong(torch.nn.Module):
    """A prior that has never seen anything: whatever the image, it answers with stripes."""

    def forward(self, x, sigma):
        stripes = torch.sin(torch.arange(x.shape[-1]) * 0.9).expand(x.shape)
        return 0.5 * x + 0.5 * stripes


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("following", [False, True])
def test_a_prior_that_misleads_is_found_out_and_costs_nothing(modality, following, monkeypatch):
    monkeypatch.setattr("udig_recon.core.inputs.load_prior", lambda *_: Wrong())
    _, _, truth = problem(modality)
    scale = 0.04 if modality is Modality.CT else 1.0
    method = UDiGDIP(preset="preview", outer_iterations=10, holdout_share=0.2)
    *_, last = iterates(method, modality)
    if following:
        *_, last = iterates(method, modality, warm_start=WarmStart(slice=4, tv_weight=last.prior_check.tv_weight))
    *_, classical = iterates(TV(), modality)
    assert last.prior_check.out_of_distribution
    assert last.prior_check.prior_weight < 0.5
    error = (last.image * scale - truth).norm()
    assert error <= 1.1 * (classical.image * scale - truth).norm() + 2e-4 * truth.norm()


def test_another_seed_gives_another_image():
    *_, first = iterates(DIP(iterations=2), Modality.MRI, seed=1)
    *_, second = iterates(DIP(iterations=2), Modality.MRI, seed=2)
    assert not torch.equal(first.image, second.image)


def error(image, truth):
    return float((image - truth).norm() / truth.norm())


def test_conjugate_gradients_solve_a_well_posed_scan():
    A, y, truth = problem(Modality.MRI)
    *_, last = iterates(CGSense(iterations=60), Modality.MRI)
    assert error(last.image, truth) < 0.02
    assert error(last.image, truth) < 0.2 * error(A.adjoint(y), truth)


def test_sirt_lowers_the_residual_with_every_iteration_and_stays_non_negative():
    losses = [
        (float(iterate.loss), float(iterate.image.min()))
        for iterate in iterates(SIRT(iterations=30, holdout_share=0), Modality.CT)
    ]
    assert all(after < before for (before, _), (after, _) in pairwise(losses))
    assert all(low >= 0 for _, low in losses)


def test_dip_learns_the_scan():
    losses = [float(iterate.loss) for iterate in iterates(DIP(iterations=40, holdout_share=0), Modality.MRI)]
    assert min(losses[-5:]) < 0.2 * losses[0]


@pytest.mark.parametrize("modality", list(Modality))
def test_udig_dip_beats_what_needs_no_prior(modality):
    A, y, truth = problem(modality)
    scale = 0.04 if modality is Modality.CT else 1.0
    plain = A.direct(y)
    *_, last = iterates(UDiGDIP(preset="preview"), modality)
    assert error(last.image * scale, truth) < 0.6 * error(plain, truth)


def test_lambda_and_purification_reach_the_result():
    images = []
    for knobs in ({}, {"autoencoding_weight": 5.0}, {"learning_rate": 1e-3}, {"noise_level": 0.9, "noise_scale": 1.0}):
        *_, last = iterates(UDiGDIP(**{**QUICK, **knobs}), Modality.MRI)
        images.append(last.image)
    assert all(not torch.equal(images[0], other) for other in images[1:])


def test_unknown_prior_is_refused_with_what_there_is():
    with pytest.raises(MissingPrior, match=r"no mri prior is named 'knees'; there are: mri"):
        next(iterates(UDiGDIP(prior="knees"), Modality.MRI))


def test_pixels_that_no_coil_sees_stay_empty():
    A, y, _ = problem(Modality.MRI)
    maps = A.maps.clone()
    maps[:, :, :8] = 0
    blind = MultiCoilMRI(maps, A.measured)
    rng = torch.Generator().manual_seed(0)
    *_, last = run(Inputs(y, blind), complete(UDiGDIP(preset="preview", outer_iterations=3), Modality.MRI), rng)
    assert float(last.image[..., :8].abs().max()) == 0
    assert float(last.image[..., 8:].abs().max()) > 0


def test_the_maps_that_an_image_was_made_with_come_with_it_and_fit_better_than_wrong_ones():
    A, y, _ = problem(Modality.MRI)
    x = torch.linspace(-1, 1, A.maps.shape[-1])
    drift = torch.exp(0.6j * torch.linspace(-1, 1, A.coils)[:, None, None] * x**2)
    wrong = A.with_maps(A.maps * drift)
    method = complete(UDiGDIP(preset="preview", outer_iterations=8), Modality.MRI)
    *_, last = run(Inputs(y, wrong), method, torch.Generator().manual_seed(0))
    assert last.operator is not None
    assert float(last.operator.misfit(last.image, y)) < float(wrong.misfit(last.image, y))
    kept = method.model_copy(update={"maps_period": 0})
    *_, stays = run(Inputs(y, wrong), kept, torch.Generator().manual_seed(0))
    assert stays.operator is None
