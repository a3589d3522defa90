"""Products of matrices, and transforms that are one."""

import torch
from torch import Tensor

from whet.ir.twin.element_types import torch_type
from whet.ir.twin.registry import op


@op("MatMul", since=1)
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices with numpy's broadcasting."""
    return torch.matmul(a, b)


@op("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    transA: int,  # the attribute's name
    transB: int,  # the attribute's name
) -> Tensor:
    """Compute ``alpha A B + beta C``."""
    product = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    product = product if alpha == 1.0 else (alpha * product).to(product.dtype)
    if c is None:
        return product
    return product + (c if beta == 1.0 else (beta * c).to(c.dtype))


@op("FusedMatMul", domain="com.microsoft")
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # the attribute's name
    transB: int = 0,  # the attribute's name
    transBatchA: int = 0,  # the attribute's name
    transBatchB: int = 0,  # the attribute's name
) -> Tensor:
    """Compute ``alpha A B`` with either side transposed."""
    a = _arranged(a, transA, transBatchA)
    b = _arranged(b, transB, transBatchB)
    return alpha * torch.matmul(a, b)


def _arranged(x: Tensor, swap: int, batch: int) -> Tensor:
    if batch:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if swap and x.ndim > 1 else x


@op("Einsum", since=12)
def einsum(*operands: Tensor, equation: str) -> Tensor:
    """Sum products over the indices of an equation."""
    result: Tensor = torch.einsum(equation.replace(" ", ""), *operands)
    return result


@op("Det", since=11)
def determinant(x: Tensor) -> Tensor:
    """Compute the determinant of the last two axes."""
    result: Tensor = torch.linalg.det(x)
    return result


def _transform(x: Tensor, length: Tensor | None, axis: int, inverse: int, onesided: int) -> Tensor:
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    axis = axis % x.ndim
    count = None if length is None else int(length)
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(signal, count, axis)
        return real.unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, count, axis))
    if onesided and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, count, axis))
    result = torch.view_as_real(torch.fft.fft(signal, count, axis))
    return result.narrow(axis, 0, result.shape[axis] // 2 + 1) if onesided else result


@op("DFT", since=17)
def dft_17(
    x: Tensor, dft_length: Tensor | None = None, *, axis: int, inverse: int, onesided: int
) -> Tensor:
    """Compute the discrete Fourier transform; the last axis holds real and imaginary parts."""
    return _transform(x, dft_length, axis, inverse, onesided)


@op("DFT", since=20)
def dft(
    x: Tensor,
    dft_length: Tensor | None = None,
    axis: Tensor | None = None,
    *,
    inverse: int,
    onesided: int,
) -> Tensor:
    """Compute the discrete Fourier transform; the last axis holds real and imaginary parts."""
    return _transform(x, dft_length, -2 if axis is None else int(axis), inverse, onesided)


@op("STFT", since=17)
def stft(
    signal: Tensor,
    frame_step: Tensor,
    window: Tensor | None = None,
    frame_length: Tensor | None = None,
    *,
    onesided: int,
) -> Tensor:
    """Transform windowed frames: (batch, length, 1 or 2) to (batch, frames, frequencies, 2)."""
    if frame_length is not None:
        length = int(frame_length)
    else:
        length = signal.shape[1] if window is None else window.shape[0]
    frames = signal.unfold(1, length, int(frame_step)).movedim(-1, 2)
    if window is not None:
        frames = frames * window.reshape(1, 1, -1, 1)
    return _transform(frames, None, 2, 0, onesided)


def _cosine_window(size: Tensor, terms: list[float], periodic: int, dtype: torch.dtype) -> Tensor:
    count = int(size)
    steps = count if periodic else count - 1
    angle = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / steps)
    window = sum(
        ((-1) ** order * weight * torch.cos(order * angle) for order, weight in enumerate(terms)),
        start=torch.zeros(count, dtype=torch.float64),
    )
    return window.to(dtype)


@op("HannWindow", since=17)
def hann_window(size: Tensor, *, output_datatype: int, periodic: int) -> Tensor:
    """Compute ``1/2 - 1/2 cos``."""
    return _cosine_window(size, [0.5, 0.5], periodic, torch_type(output_datatype))


@op("HammingWindow", since=17)
def hamming_window(size: Tensor, *, output_datatype: int, periodic: int) -> Tensor:
    """Compute ``25/46 - 21/46 cos``."""
    return _cosine_window(size, [25 / 46, 21 / 46], periodic, torch_type(output_datatype))


@op("BlackmanWindow", since=17)
def blackman_window(size: Tensor, *, output_datatype: int, periodic: int) -> Tensor:
    """Compute ``0.42 - 0.5 cos(t) + 0.08 cos(2t)``."""
    return _cosine_window(size, [0.42, 0.5, 0.08], periodic, torch_type(output_datatype))


@op("MelWeightMatrix", since=17)
def mel_weight_matrix(
    num_mel_bins: Tensor,
    dft_length: Tensor,
    sample_rate: Tensor,
    lower_edge_hertz: Tensor,
    upper_edge_hertz: Tensor,
    *,
    output_datatype: int,
) -> Tensor:
    """Weigh linear frequencies into triangles that are equally wide on the mel scale."""
    bins, length, rate = int(num_mel_bins), int(dft_length), int(sample_rate)
    edges = torch.stack([lower_edge_hertz, upper_edge_hertz]).double().reshape(-1)
    low, high = (2595 * torch.log10(1 + edges / 700)).tolist()
    mels = torch.arange(bins + 2, dtype=torch.float64) * ((high - low) / (bins + 2)) + low
    hertz = 700 * (10 ** (mels / 2595) - 1)
    place = torch.floor((length + 1) * hertz / rate)
    left, peak, right = place[:-2], place[1:-1], place[2:]
    bin_ = torch.arange(length // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rising = torch.where(peak > left, (bin_ - left) / (peak - left), (bin_ == peak).double())
    falling = torch.where(right > peak, (right - bin_) / (right - peak), 0.0)
    weight = torch.where(bin_ <= peak, rising, falling)
    inside = (bin_ >= left) & ((bin_ < right) | (bin_ == peak))
    return torch.where(inside, weight, 0.0).to(torch_type(output_datatype))
