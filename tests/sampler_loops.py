"""Samplers as loops in NumPy, in the variables of their papers, for comparison with the library's.

Each takes `denoise(x, sigma)`, x = clean + sigma * noise at `sigmas[0]`, the noise levels, and `noise(k)`.
"""

import itertools
import math

import numpy as np
from scipy.integrate import RK45


def ancestral(denoise, x, sigmas, noise, *, variance="small", interpolation=None):
    """DDPM, algorithm 2, in its variance-preserving x_t; Nichol & Dhariwal 2021, eq. 15, of an interpolation."""
    bars = 1.0 / (1.0 + sigmas**2)
    x_t = np.sqrt(bars[0]) * x
    for k in range(len(sigmas) - 1):
        bar, next_bar, beta = bars[k], bars[k + 1], 1.0 - bars[k] / bars[k + 1]
        seen = x_t / np.sqrt(bar)
        small = (1.0 - next_bar) / (1.0 - bar) * beta
        x_0 = denoise(seen, sigmas[k])
        kept = np.sqrt(bar / next_bar) * (1.0 - next_bar) / (1.0 - bar)
        mean = np.sqrt(next_bar) * beta / (1.0 - bar) * x_0 + kept * x_t
        if k == len(sigmas) - 2:
            return mean
        std = np.sqrt({"small": small, "large": beta}[variance])
        if interpolation is not None:
            share = interpolation(seen, sigmas[k])
            std = np.exp(0.5 * (share * np.log(beta) + (1.0 - share) * np.log(small)))
        x_t = mean + std * noise(k)
    return x_t


def ddim(denoise, x, sigmas, noise, *, eta=0.0):
    """Song et al. 2021, eqs. 12 and 16."""
    bars = 1.0 / (1.0 + sigmas**2)
    x_t = np.sqrt(bars[0]) * x
    for k in range(len(sigmas) - 1):
        bar, next_bar = bars[k], bars[k + 1]
        x_0 = denoise(x_t / np.sqrt(bar), sigmas[k])
        eps = (x_t - np.sqrt(bar) * x_0) / np.sqrt(1.0 - bar)
        std = eta * np.sqrt((1.0 - next_bar) / (1.0 - bar)) * np.sqrt(1.0 - bar / next_bar)
        x_t = np.sqrt(next_bar) * x_0 + np.sqrt(1.0 - next_bar - std**2) * eps + std * noise(k)
    return x_t


def euler(denoise, x, sigmas, noise):
    """Euler's method for dx / d sigma = (x - D) / sigma."""
    del noise
    for t, s in itertools.pairwise(sigmas):
        x = x + (s - t) * (x - denoise(x, t)) / t
    return x


def euler_ancestral(denoise, x, sigmas, noise, *, eta=1.0):
    """k-diffusion's."""
    for k, (t, s) in enumerate(itertools.pairwise(sigmas)):
        up = min(s, eta * np.sqrt(s**2 * (t**2 - s**2) / t**2))
        x = x + (np.sqrt(s**2 - up**2) - t) * (x - denoise(x, t)) / t + up * noise(k)
    return x


def heun(denoise, x, sigmas, noise, *, churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0, path="ve"):
    """Karras et al. 2022, algorithm 2; on the linear path with z = (1 - u) x and dz / du = (z - D) / u."""
    steps = len(sigmas) - 1
    for k, (t, s) in enumerate(itertools.pairwise(sigmas)):
        gamma = min(churn / steps, math.sqrt(2.0) - 1.0) if s_min <= t <= s_max else 0.0
        t_hat = t + gamma * t
        x = x + s_noise * np.sqrt(t_hat**2 - t**2) * noise(k)
        if path == "ve":
            d = (x - denoise(x, t_hat)) / t_hat
            x_next = x + (s - t_hat) * d
            if s > 0.0:
                x_next = x + (s - t_hat) * 0.5 * (d + (x_next - denoise(x_next, s)) / s)
        else:
            u, v = t_hat / (1.0 + t_hat), s / (1.0 + s)
            z = (1.0 - u) * x
            d = (z - denoise(x, t_hat)) / u
            z_next = z + (v - u) * d
            if s > 0.0:
                z_next = z + (v - u) * 0.5 * (d + (z_next - denoise(z_next / (1.0 - v), s)) / v)
            x_next = z_next / (1.0 - v)
        x = x_next
    return x


def dpmpp_2m(denoise, x, sigmas, noise):
    """Lu et al. 2022, algorithm 2, at alpha 1 and lambda -log sigma."""
    del noise
    last, last_h = None, None
    for t, s in itertools.pairwise(sigmas):
        x_0 = denoise(x, t)
        if s == 0.0:
            return x_0
        h = math.log(t) - math.log(s)
        data = x_0 if last is None else x_0 + h / (2.0 * last_h) * (x_0 - last)
        x = s / t * x - math.expm1(-h) * data
        last, last_h = x_0, h
    return x


def dpmpp_2s(denoise, x, sigmas, noise):
    """Lu et al. 2022, algorithm 1, r = 1/2."""
    del noise
    for t, s in itertools.pairwise(sigmas):
        x_0 = denoise(x, t)
        if s == 0.0:
            return x_0
        h = math.log(t) - math.log(s)
        middle = math.exp(-(-math.log(t) + 0.5 * h))
        u = middle / t * x - math.expm1(-0.5 * h) * x_0
        x = s / t * x - math.expm1(-h) * denoise(u, middle)
    return x


def dpmpp_2m_sde(denoise, x, sigmas, noise, *, eta=1.0, solver="midpoint"):
    """k-diffusion's."""
    last, last_h = None, None
    for k, (t, s) in enumerate(itertools.pairwise(sigmas)):
        x_0 = denoise(x, t)
        if s == 0.0:
            return x_0
        h = math.log(t) - math.log(s)
        grown = h + eta * h
        x = s / t * math.exp(-eta * h) * x - math.expm1(-grown) * x_0
        if last is not None:
            slope = (x_0 - last) * h / last_h
            weight = {"heun": math.expm1(-grown) / grown + 1.0, "midpoint": -0.5 * math.expm1(-grown)}[solver]
            x = x + weight * slope
        x = x + s * math.sqrt(-math.expm1(-2.0 * eta * h)) * noise(k)
        last, last_h = x_0, h
    return x


def dpmpp_3m_sde(denoise, x, sigmas, noise, *, eta=1.0):
    """k-diffusion's: phi_3 weighs the second divided difference, half of what Taylor's formula would have."""
    past = []
    for k, (t, s) in enumerate(itertools.pairwise(sigmas)):
        past = [(-math.log(t), denoise(x, t)), *past][:3]
        if s == 0.0:
            return past[0][1]
        h = math.log(t) - math.log(s)
        grown = (1.0 + eta) * h
        phi_2 = math.expm1(-grown) / grown + 1.0
        phi_3 = phi_2 / grown - 0.5
        x = math.exp(-grown) * x - math.expm1(-grown) * past[0][1]
        ratios = [(newer[0] - older[0]) / h for newer, older in itertools.pairwise(past)]
        slopes = [(newer[1] - older[1]) / r for (newer, older), r in zip(itertools.pairwise(past), ratios, strict=True)]
        if len(slopes) == 1:
            x = x + phi_2 * slopes[0]
        if len(slopes) == 2:
            second = (slopes[0] - slopes[1]) / sum(ratios)
            x = x + phi_2 * (slopes[0] + ratios[0] * second) - phi_3 * second
        x = x + s * math.sqrt(-math.expm1(-2.0 * eta * h)) * noise(k)
    return x


def exact_parabola(denoise, x, sigmas, noise, *, eta=1.0):
    """Newton's parabola through the last three estimates, integrated by quadrature: exp(-H (1 - tau)) H d tau."""
    past = []
    nodes, weights = np.polynomial.legendre.leggauss(20)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    for k, (t, s) in enumerate(itertools.pairwise(sigmas)):
        past = [(-math.log(t), denoise(x, t)), *past][:3]
        if s == 0.0:
            return past[0][1]
        h = math.log(t) - math.log(s)
        grown = (1.0 + eta) * h
        x = math.exp(-grown) * x
        for tau, weight in zip(nodes, weights, strict=True):
            at = past[0][0] + tau * h
            x = x + weight * grown * math.exp(-grown * (1.0 - tau)) * _interpolate(past, at)
        x = x + s * math.sqrt(-math.expm1(-2.0 * eta * h)) * noise(k)
    return x


def _interpolate(points, at):
    """Lagrange's polynomial through (lambda, estimate)."""
    total = 0.0
    for i, (own, value) in enumerate(points):
        others = [other for j, (other, _) in enumerate(points) if j != i]
        total = total + math.prod((at - other) / (own - other) for other in others) * value
    return total


def unipc(denoise, x, sigmas, noise):
    """Zhao et al. 2023, algorithms 1 and 2, order 2, B_2, at alpha 1: the systems of theorem 3.1 solved."""
    del noise
    times = [-math.log(sigma) for sigma in sigmas[:-1]]
    m = [denoise(x, sigmas[0])]
    for i in range(1, len(times)):
        h = times[i] - times[i - 1]
        base = sigmas[i] / sigmas[i - 1] * x - math.expm1(-h) * m[-1]
        big_b = math.expm1(-h)
        r = [(times[i - 2] - times[i - 1]) / h] if i > 1 else []
        changes = [(m[-2] - m[-1]) / r[0]] if i > 1 else []
        predicted = base - big_b * sum((0.5 * d for d in changes), np.zeros_like(x))
        new = denoise(predicted, sigmas[i])
        rho = _rhos([*r, 1.0], -h)
        corrected = sum((rho_j * d for rho_j, d in zip(rho, changes, strict=False)), rho[-1] * (new - m[-1]))
        x = base - big_b * corrected
        m.append(new)
    return m[-1]


def _rhos(r, minus_h):
    if len(r) == 1:
        return np.array([0.5])
    phi, factorial, rows, b = math.expm1(minus_h) / minus_h - 1.0, 1.0, [], []
    for order in range(len(r)):
        rows.append([ratio**order for ratio in r])
        b.append(phi * factorial / math.expm1(minus_h))
        factorial *= order + 2
        phi = phi / minus_h - 1.0 / factorial
    return np.linalg.solve(np.array(rows), np.array(b))


def rk45(denoise, x, sigmas, noise, *, rtol=1e-3, atol=1e-3):
    """Dormand & Prince with scipy's coefficients, for one image after the other, in log sigma."""
    del noise
    start, end = math.log(sigmas[0]), math.log(sigmas[-2])
    done = []
    for i, image in enumerate(x):

        def slope(image, u, i=i):
            return image - denoise(np.broadcast_to(image, x.shape), math.exp(u))[i]

        u, step = start, 0.01 * (end - start)
        while u > end:
            step = max(step, end - u)
            k = np.zeros((7, *image.shape))
            k[0] = slope(image, u)
            for stage in range(1, 6):
                moved = image + step * np.tensordot(RK45.A[stage, :stage], k[:stage], axes=1)
                k[stage] = slope(moved, u + RK45.C[stage] * step)
            new = image + step * np.tensordot(RK45.B, k[:6], axes=1)
            k[6] = slope(new, u + step)
            error = step * np.tensordot(RK45.E, k, axes=1)
            ratio = np.sqrt(np.mean((error / (atol + rtol * np.maximum(np.abs(image), np.abs(new)))) ** 2))
            if ratio <= 1.0:
                u, image = (end if step == end - u else u + step), new
            step *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** -0.2))
        done.append(image - slope(image, end))
    return np.stack(done)
