"""What each number means, in one sentence, for the small print under every title."""

from app import circuit_words

METRICS: dict[str, tuple[str, str]] = {
    "loss": ("Loss", "What is minimised: reconstruction plus the terms of the architecture."),
    "fvu": (
        "FVU",
        "Fraction of variance unexplained: squared error of the reconstruction over the variance of the activations. 0 is perfect.",
    ),
    "l0": ("L0", "Mean number of active latents per token."),
    "dead_share": (
        "Dead latents",
        "Share of latents that never fired: in an evaluation, on its held-out tokens; in a training, within its dead window. "
        "Fewer tokens leave more latents silent.",
    ),
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
    "ce_recovered_zero": (
        "CE recovered (zero)",
        "(CE zero − CE reconstructed) / (CE zero − CE clean), of the cross-entropies with the site set to zero, reconstructed, untouched. "
        "1 is as good as the model itself.",
    ),
    "ce_recovered_mean": (
        "CE recovered (mean)",
        "(CE mean − CE reconstructed) / (CE mean − CE clean), of the cross-entropies with the site set to its mean, reconstructed, "
        "untouched. 1 is as good as the model itself; the mean is harder to beat than zero.",
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

# Figures of the summaries of heads runs; those of circuit runs are in circuit_words.py.
FIGURES: dict[str, tuple[str, str]] = {
    "n_heads": ("heads", "Attention heads of the model, written layer.head."),
    "top_previous_token": ("most previous-token", "Head that attends most to the token before, and its score (0 to 1)."),
    "top_induction": ("most induction", "Head that attends most to what came after the token the last time, and its score."),
    "top_duplicate_token": ("most duplicate-token", "Head that attends most to an earlier copy of the token, and its score."),
}

SITE = (
    "site",
    "Where in the model a dictionary reads and writes, layer.stream: 10.resid_post is the residual stream after layer 10, counted from 0.",
)

# Statistics of a latent, as the Explorer and the Feature page name them.
LATENT = (
    ("density", "share of tokens on which it is active"),
    ("max, mean", "of its activation where it is active"),
    ("p50, p90, p99", "percentiles of the same: p50 is the median"),
    (
        "top token, its share",
        "the token it is most often active on, and the share of its active tokens that are this one; a dot before it is a blank",
    ),
    ("token entropy", "how many tokens share its activity, in nats: 0 is one token"),
    ("encoder · decoder", "cosine of the direction it reads with the one it writes"),
    ("decoder norm", "length of the direction that it writes: times the activation, how far it moves what the model holds at the site"),
)
# Of the effects of a latent on all logits.
SHAPE = (
    ("logit weights", "are measured from their mean over the vocabulary, up to the final norm's division, which differs by token"),
    ("skew", "above 0 where the long tail is of raised tokens"),
    ("kurtosis", "3 for a normal distribution, high where few tokens stand out"),
)
LISTED = (
    ("density", "share of tokens on which it is active (bar: logarithmic)"),
    ("max", "strongest activation"),
    ("top token", "the token it is most often active on; a dot before it is a blank"),
    ("share", "of its active tokens, how many are its top token"),
    ("kurtosis", "of its effects on the logits of all tokens: high where it promotes a few only, 3 where it promotes none in particular"),
    ("nearest", "the latent with the most similar decoder direction, and their cosine"),
    ("raises", "tokens that its direction promotes directly; meaningful in late layers, mostly noise in early ones"),
)

EXAMPLE = (
    ("at", "sequence:position of the sampled token in the stored text, and its sample"),
    ("fold", "one line for windows with the same text, ×2 when there are two"),
    ("↵", "line end"),
)

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
    of_circuit = circuit_words.figure(metric)
    return of_circuit.full_title if of_circuit else _known(metric)[0]


def meaning(metric: str) -> str:
    """The definition of a metric, or nothing."""
    of_circuit = circuit_words.figure(metric)
    return of_circuit.meaning if of_circuit else _known(metric)[1]


def _known(metric: str) -> tuple[str, str]:
    return (METRICS | HEAD_METRICS | FIGURES).get(metric, (metric.replace("_", " "), ""))
