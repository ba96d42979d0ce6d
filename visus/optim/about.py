"""Each optimizer in a line: its equation, and where it is from.

g: gradient; x: weights; m, v: decaying averages of g and of g^2 with the decays b1, b2, divided by 1 - b^t; lr: rate.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    equation: str
    paper: str


ABOUT: dict[str, About] = {
    "sgd": About("u = momentum u + g; x -= lr u (nesterov: x -= lr (g + momentum u))",
                 "Robbins and Monro 1951; Polyak 1964; Nesterov 1983; Sutskever 2013"),
    "adam": About("x -= lr m / (sqrt(v) + eps)", "Kingma and Ba 2015, arXiv:1412.6980"),
    "adamw": About("x -= lr (m / (sqrt(v) + eps) + weight_decay x)", "Loshchilov and Hutter 2019, arXiv:1711.05101"),
    "nadam": About("Adam that looks ahead: b1 m + (1 - b1) g in place of m", "Dozat 2016"),
    "radam": About("Adam whose first steps, while v is still too noisy, are plain momentum",
                   "Liu et al. 2020, arXiv:1908.03265"),
    "adamax": About("x -= lr m / max(b2 w, |g|), w: that maximum one step ago", "Kingma and Ba 2015, section 7.1"),
    "rmsprop": About("v = a v + (1 - a) g^2; x -= lr g / (sqrt(v) + eps)", "Tieleman and Hinton 2012"),
    "adagrad": About("x -= lr g / (sqrt(sum of all g^2) + eps)", "Duchi et al. 2011"),
    "adadelta": About("x -= lr g sqrt(d) / sqrt(v), d: decaying average of the squared steps", "Zeiler 2012, "
                      "arXiv:1212.5701"),
    "lamb": About("x -= lr |x| / |u| u, u = m / (sqrt(v) + eps) + weight_decay x, tensor by tensor",
                  "You et al. 2020, arXiv:1904.00962"),
    "lars": About("x -= lr u, u = momentum u + trust |x| / (|g| + weight_decay |x|) (g + weight_decay x)",
                  "You et al. 2017, arXiv:1708.03888"),
    "lion": About("x -= lr (sign(b1 m + (1 - b1) g) + weight_decay x); m = b2 m + (1 - b2) g",
                  "Chen et al. 2023, arXiv:2302.06675"),
    "muon": About("matrices: momentum, made orthogonal by Newton-Schulz steps; the rest: Adam", "Jordan 2024"),
    "muon_sgd": About("muon with longer steps, and Nesterov's momentum for the rest", "Jordan 2024"),
    "muon_unit": About("muon_sgd, and matrices scaled to rows of length 1 before each step: for nets with a norm after "
                       "every kernel", "Jordan 2024"),
    "lbfgs": About("x += t d, d = -H g, H from the last differences of x and g", "Liu and Nocedal 1989"),
    "sfo": About("a quadratic model of each batch, in the subspace of all steps and gradients; their sum is minimised",
                 "Sohl-Dickstein et al. 2014, arXiv:1311.2115"),
    "asgd": About("SGD; the plain average of the weights from a step on is what is used", "Polyak and Juditsky 1992; "
                  "Bottou 2012"),
    "newton": About("x -= lr (H + damping)^-1 g", "Newton; Nocedal and Wright, chapter 3"),
    "diagonal_lm": About("x -= lr g / (mu + h), h: decaying average of the diagonal of the Gauss-Newton matrix",
                         "LeCun et al. 1998, Efficient BackProp, section 9"),
    "random_search": About("x = r, drawn anew, where that makes the loss smaller", "CS231n notes, strategy 1"),
    "local_search": About("x = x + lr r, r drawn anew, where that makes the loss smaller", "CS231n notes, strategy 2"),
    "rprop": About("x -= sign(g) s; s grows by 1.2 while the sign of g stays, shrinks by 0.5 when it turns",
                   "Riedmiller and Braun 1993"),
}
