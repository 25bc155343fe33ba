"""The commands of the engine: their arguments and options. What they do is imported when they run."""

from typing import Any

import click

from udig_recon.core.cli.completion import complete_methods
from udig_recon.core.cli.options import PATH, Command, LazyChoice, SeveralValues, ShardParameter

DEVICE = click.option(
    "--device", default="auto", metavar="DEVICE", help="cpu, cuda, cuda:N; a GPU by default where there is one"
)
PRIORS = click.option(
    "--priors", type=PATH, metavar="FOLDER", help="folder of diffusion priors beside the bundled ones"
)
PROJECTORS = click.option(
    "--projectors", type=PATH, metavar="FOLDER", help="folder that keeps projectors of CT geometries for the next run"
)
MAX_PROJECTOR_BYTES = click.option(
    "--max-projector-bytes",
    type=int,
    default=16 << 30,
    show_default=True,
    metavar="N",
    help="most bytes of that folder",
)
SLICES = click.option(
    "--slices", cls=SeveralValues, extend=True, type=int, metavar="NUMBER", help="of every scan; all by default"
)
SHARD = click.option(
    "--shard",
    type=ShardParameter(),
    default="1/1",
    metavar="I/N",
    help="part I of N, for the tasks of a job array; one folder of results for all",
)
MODALITY = click.option("--modality", type=click.Choice(["mri", "ct"]), required=True)


@click.command("recon", cls=Command)
@click.argument("scan", type=PATH)
@click.option(
    "-o", "--output", type=PATH, required=True, help="volume to write: .h5, .npy, .nii.gz, .dicom.zip or .png"
)
@click.option(
    "--method",
    type=LazyChoice("udig_recon.core.parameters:METHODS"),
    default="udig_dip",
    show_default=True,
    metavar="METHOD",
    help="see `udig methods`",
)
@click.option(
    "--set", "parameters", cls=SeveralValues, extend=True, metavar="NAME=VALUE", help="parameters, as preset=preview"
)
@click.option("--slices", cls=SeveralValues, extend=True, type=int, metavar="NUMBER", help="all by default")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--seeds", type=int, default=1, metavar="N", help="mean and standard deviation of N seeds from --seed on")
@click.option(
    "--template",
    type=PATH,
    metavar="FILE",
    help="DICOM file of the patient's study, to which a .dicom.zip is to belong",
)
@DEVICE
@click.option("--threads", type=int, default=1, help="CPU threads; with more than one, rare runs differ a little")
@PRIORS
@PROJECTORS
@MAX_PROJECTOR_BYTES
def recon(**options: Any) -> int:
    """Reconstruct a scan file without the service: `udig recon scan.h5 -o out.h5`.

    SCAN is k-space or a sinogram in one of these formats, or in gzip: .npy, BART, Bruker, DICOM-CT-PD, .npz, zip of
    HDF5, MATLAB 5, MATLAB 7.3, MRD, Data Exchange, NeXus NXtomo, HDF5, MRD stream, Siemens twix.
    """
    from udig_recon.core.cli.reconstruct import Options, run

    return run(Options(**options))


@click.command("run", cls=Command)
@click.argument("scans", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER", help="folder for the volumes")
@click.option(
    "--method",
    cls=SeveralValues,
    extend=True,
    required=True,
    shell_complete=complete_methods,
    metavar="METHOD",
    help="see `udig methods`",
)
@click.option(
    "--format",
    cls=SeveralValues,
    extend=True,
    type=LazyChoice("udig_recon.core.results.outputs:OUTPUTS"),
    default=("nifti",),
    metavar="FORMAT",
    help="of nifti, dicom, npy, png, mrd, cfl and others; nifti by default",
)
@SLICES
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--seeds", type=int, default=1, metavar="N", help="mean and deviation of N seeds, of methods that draw")
@SHARD
@DEVICE
@click.option("--threads", type=int, default=1, help="CPU threads; with more than one, rare runs differ a little")
@PRIORS
@PROJECTORS
@MAX_PROJECTOR_BYTES
def run(**options: Any) -> int:
    """Reconstruct many scans by several methods: `udig run SCANS -o OUT --method tv udig_dip --format nifti`.

    SCANS are files, and folders with files and sub-folders, in the formats of `udig recon`. Each scan is reconstructed
    with every method for its modality. A METHOD may come with settings: [LABEL=]METHOD[:NAME=VALUE,...].

    OUTPUT gets SCAN/METHOD.nii.gz and the like, SCAN/METHOD.h5 with everything that is known of the volume, and
    summary.csv. What is there already is not computed again: interrupt the command and start it again, with more
    scans, methods or formats. A scan that fails does not stop the others; the exit status is then 1.
    """
    from udig_recon.core.cli.run import Options
    from udig_recon.core.cli.run import run as run_batch

    return run_batch(Options(**options))


@click.command("compare", cls=Command)
@click.argument("scans", type=PATH, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="FOLDER", help="folder for results, tables and figures"
)
@click.option(
    "--methods",
    cls=SeveralValues,
    extend=True,
    required=True,
    shell_complete=complete_methods,
    metavar="METHOD",
    help="settings, quick ones first",
)
@click.option("--seeds", type=int, default=1, help="runs of each method on each slice, with seeds 0, 1, ...")
@SLICES
@click.option(
    "--figures",
    cls=SeveralValues,
    type=LazyChoice("udig_recon.core.comparison.report:FIGURES"),
    default=("panels", "iterations"),
    empty=True,
    metavar="FIGURE",
    help="panels, iterations, noise; panels and iterations by default",
)
@click.option("--noise-updates", type=int, default=4000, help="of each probe of figure noise, the paper's 1")
@SHARD
@click.option("--report", is_flag=True, help="compute nothing: tables and figures of the results that are there")
@DEVICE
@click.option(
    "--threads", type=int, default=1, help="CPU threads; of one the processor's time is reported, not the clock's"
)
@PRIORS
@click.pass_context
def compare(ctx: click.Context, /, **options: Any) -> int:
    """Compare methods on scans: tables, ratings, a ranking, figures and volumes.

    SCANS are files, and folders with files and sub-folders, in the formats that the service reads. Scans with
    references give PSNR, SSIM and a ranking; those without give residuals, ratings and pictures.

    A METHOD may come with several settings, [LABEL=]METHOD[:NAME=VALUE,...]; the paper's figures stand beside labels
    that begin with the name of the method. Results are stored under OUTPUT and never computed twice: interrupt the
    command and start it again, with more methods, scans or seeds. Methods run in the order given, each on all scans:
    name the quick ones first.
    """
    from udig_recon.core.cli.compare import Options, run

    return run(Options(**options), ctx.meta["arguments"])


@click.command("methods")
@click.argument("name", required=False)
def methods(name: str | None) -> int:
    """List the methods, or the parameters of method NAME."""
    from udig_recon.core.cli.listing import list_methods

    return list_methods(name)


@click.command("priors")
@click.argument("name", required=False)
@PRIORS
def priors(name: str | None, priors: Any) -> int:
    """List the diffusion priors, or print the card of prior NAME as JSON."""
    from udig_recon.core.cli.listing import list_priors

    return list_priors(name, priors)


@click.command("train-prior", cls=Command)
@MODALITY
@click.option(
    "--images", type=PATH, required=True, help="folder: a file or a sub-folder for each person; CT in Hounsfield"
)
@click.option("--output", type=PATH, required=True, help="folder for checkpoint, weights, card, history and picture")
@click.option("--name", help="name of the prior; the modality's by default")
@click.option(
    "--hold-out",
    cls=SeveralValues,
    empty=True,
    metavar="PERSON",
    help="people kept out of training; a tenth by default",
)
@click.option(
    "--leave-out", cls=SeveralValues, empty=True, metavar="NAME", help="files, sub-folders or people not used at all"
)
@click.option("--people", type=PATH, metavar="JSON", help="file or sub-folder -> person, where a person has several")
@click.option("--sources", type=PATH, metavar="JSON", help="file or sub-folder -> {weight, terms}; others weigh 1")
@click.option(
    "--start-from", metavar="PRIOR", help="weights to begin with, of a bundled prior or one in the output folder"
)
@click.option("--steps", type=int, default=8000, show_default=True)
@click.option("--batch", type=int, default=8, show_default=True, help="patches a step, of each process")
@click.option("--patch", type=int, default=96, show_default=True, help="side of the training patches in pixels")
@click.option("--learning-rate", type=float, default=8e-4, show_default=True)
@click.option("--decay", type=float, default=0.999, show_default=True, help="of the running mean of the weights")
@click.option(
    "--widths",
    cls=SeveralValues,
    type=int,
    metavar="CHANNELS",
    help="channels of the network's levels, finest first; those of the bundled priors by default",
)
@click.option("--blocks", type=int, help="residual blocks a level; those of the bundled priors by default")
@click.option(
    "--score-every", type=int, default=500, show_default=True, metavar="STEPS", help="steps between two scorings"
)
@click.option(
    "--keep",
    type=click.Choice(["best", "last"]),
    default="last",
    show_default=True,
    help="best: the weights that reconstructed best so far",
)
@click.option("--seed", type=int, default=0, show_default=True)
@DEVICE
@click.option("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice; 1: the same bits every time")
def train_prior(**options: Any) -> int:
    """Train a diffusion prior on images: `udig train-prior --modality mri --images DIR --output DIR`."""
    from udig_recon.core.acquisition import Modality
    from udig_recon.core.cli.train_prior import Options, run
    from udig_recon.core.training.state import BLOCKS, WIDTHS

    options["modality"] = Modality(options["modality"])
    options["widths"] = list(options["widths"] or WIDTHS)
    options["blocks"] = BLOCKS if options["blocks"] is None else options["blocks"]
    return run(Options(**options))


@click.command("adapt-prior", cls=Command)
@click.argument("scans", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER", help="folder for the prior, as DATA/priors")
@click.option("--name", required=True, help="name by which jobs ask for the prior")
@click.option("--prior", metavar="PRIOR", help="prior to begin with; the modality's bundled one by default")
@PRIORS
@click.option("--slices-per-scan", type=int, default=8, show_default=True, metavar="N", help="at equal distances")
@click.option("--steps", type=int, default=200, show_default=True)
@click.option("--learning-rate", type=float, default=3e-4, show_default=True)
@click.option("--terms", default="terms not stated", show_default=True, help="licence or terms of use of the scans")
@click.option("--seed", type=int, default=0, show_default=True)
@DEVICE
@click.option("--threads", type=int, default=1, help="CPU threads; 1: the same bits every time")
def adapt_prior(**options: Any) -> int:
    """Adapt a diffusion prior to undersampled scans: `udig adapt-prior SCANS -o FOLDER --name NAME`.

    The prior reconstructs slices of the scans and is tuned on these images; no reference is used. A tenth of the lines
    or views is left out and judges it: where the tuned prior does not tell them better, nothing is written and the exit
    status is 1. The card names scans by their hash alone.
    """
    from udig_recon.core.cli.adapt_prior import Options, run

    return run(Options(**options))


@click.command("convert-prior", cls=Command)
@click.argument("checkpoint", type=PATH)
@click.option(
    "--layout",
    type=LazyChoice("udig_recon.core.priors.architectures:LAYOUTS"),
    default="auto",
    show_default=True,
    metavar="LAYOUT",
    help="auto, adm, ncsnpp",
)
@MODALITY
@click.option("--name", required=True, help="name by which jobs ask for the prior")
@click.option("--output", type=PATH, required=True, help="folder for weights and card, as DATA/priors")
@click.option("--terms", default="not stated", show_default=True, help="licence or terms of use of the weights")
@click.option("--half", is_flag=True, help="write matrices and kernels in half precision")
@click.option(
    "--input-range",
    type=float,
    nargs=2,
    default=(0.0, 1.0),
    metavar="LOW HIGH",
    help="what black and the brightest pixel were in its training; 0 1 by default",
)
def convert_prior(**options: Any) -> int:
    """Turn a published diffusion checkpoint into a prior.

    CHECKPOINT is a file of torch.save, by any name; its code is never run.
    """
    from udig_recon.core.acquisition import Modality
    from udig_recon.core.cli.convert_prior import Options, run

    options["modality"] = Modality(options["modality"])
    return run(Options(**options))


@click.command("calibrate-ood", cls=Command)
@click.option("--prior", type=PATH, required=True, metavar="CARD", help="the prior's card, its weights beside it")
@click.option("--images", type=PATH, required=True, help="folder of its training images, as of train-prior")
@click.option(
    "--leave-out",
    cls=SeveralValues,
    empty=True,
    metavar="NAME",
    help="files or sub-folders that it was not trained on",
)
@click.option("--people", type=PATH, metavar="JSON", help="file or sub-folder -> person, where a person has several")
@DEVICE
def calibrate_ood(**options: Any) -> int:
    """Calibrate a prior's out-of-distribution (OOD) score on the images that it was trained on.

    The score tells images that are unlike those. `udig train-prior` calibrates by itself.
    """
    from udig_recon.core.cli.calibrate_ood import Options, run

    return run(Options(**options))
