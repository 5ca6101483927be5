"""What each number means, in one sentence, for the small print under every title."""

METRICS: dict[str, tuple[str, str]] = {
    "loss": ("Loss", "What is minimised: reconstruction plus the terms of the architecture."),
    "fvu": (
        "FVU",
        "Fraction of variance unexplained: squared error of the reconstruction over the variance of the activations. 0 is perfect.",
    ),
    "l0": ("L0", "Mean number of active latents per token."),
    "dead_share": ("Dead latents", "Share of latents that did not fire within the dead window."),
    "dense_share": ("Dense latents", "Share of latents that are active on more than a tenth of the tokens."),
    "aux_loss": ("Auxiliary loss", "What the term that revives dead latents is still off by (AuxK, Gao et al. 2024), before its weight."),
    "penalty_loss": ("Penalty", "The price of active latents (L1, or L_p): what sparsity costs in the loss, its coefficient included."),
    "sparsity_loss": ("Sparsity term", "How far JumpReLU is from its target number of active latents, its coefficient included."),
    "gate_loss": ("Gate term", "FVU of what the gates alone reconstruct (Rajamanoharan et al. 2024)."),
    "multi_loss": ("Multi-TopK", "FVU of a second reconstruction from four times as many latents, its weight included."),
    "fvu_first": ("FVU of the first prefix", "FVU of Matryoshka's smallest dictionary, the first of its nested prefixes."),
    "lr": ("Learning rate", "Step size of the optimiser."),
    "grad_norm": ("Gradient norm", "Norm of the gradient before clipping."),
    "tokens_per_s": ("Tokens per second", "Speed of training."),
    "ce_clean": ("CE clean", "Cross-entropy of the model as it is, in nats per token."),
    "ce_recon": ("CE reconstructed", "Cross-entropy with the dictionary spliced in, in nats per token."),
    "ce_zero": ("CE zero", "Cross-entropy with the site set to zero."),
    "ce_mean": ("CE mean", "Cross-entropy with the site set to its mean."),
    "ce_recovered_zero": ("CE recovered (zero)", "(CE zero − CE reconstructed) / (CE zero − CE clean). 1 is as good as the model itself."),
    "ce_recovered_mean": (
        "CE recovered (mean)",
        "(CE mean − CE reconstructed) / (CE mean − CE clean). The mean is harder to beat than zero.",
    ),
    "kl": ("KL", "Mean divergence of the spliced model's predictions from the model's own, in nats per token."),
}
HIGHER_IS_BETTER = ("ce_recovered_zero", "ce_recovered_mean")

# As defined in interp/heads/scores.py and copying.py; all on repeated random tokens, except copying, and all from 0 to 1.
HEAD_METRICS: dict[str, tuple[str, str]] = {
    "previous_token": ("Previous token", "Mean attention from each token to the one before it."),
    "duplicate_token": ("Duplicate token", "Mean attention from a repeated token to its earlier copy (Wang et al. 2022)."),
    "induction": ("Induction", "Mean attention from a repeated token to the one after its earlier copy (Olsson et al. 2022)."),
    "bos": ("Attention sink", "Mean attention to the first position, where idle heads rest."),
    "entropy": ("Entropy", "Entropy of the pattern as a share of the largest possible: 0 looks at one token, 1 at all alike."),
    "copying": (
        "Copying",
        "Share of tokens whose own logit is among the 5 that the head raises most when it attends to them (Wang et al. 2022).",
    ),
}

BUCKETS = {0: "top", 1: "band 1", 2: "band 2", 3: "band 3", 4: "band 4", 5: "band 5", 6: "random active", 7: "silent"}
GROUPS: dict[str, tuple[tuple[int, ...], str]] = {
    "top": ((0,), "The strongest activations."),
    "bands": (
        (5, 4, 3, 2, 1),
        "Samples from five equal bands of (0, max], strongest band first: what the latent means when it fires weakly.",
    ),
    "random": ((6,), "Active tokens drawn at random, unweighted by strength: what the latent means on average."),
    "silent": ((7,), "Tokens of a kind on which the latent often fires, but where it is silent. Would you have predicted that?"),
}


def title(metric: str) -> str:
    """The title of a metric, or its name."""
    return (METRICS | HEAD_METRICS).get(metric, (metric.replace("_", " "), ""))[0]


def meaning(metric: str) -> str:
    """The definition of a metric, or nothing."""
    return (METRICS | HEAD_METRICS).get(metric, ("", ""))[1]
