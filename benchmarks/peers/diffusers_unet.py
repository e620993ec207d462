"""Class-conditional DDPM by diffusers: its U-Net and schedulers in a plain PyTorch loop, an average of the weights."""

import copy

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from training_budget import NUM_SAMPLES, Job, parse, save, train

BATCH_SIZE, CLASSES, STEPS, DECAY, WARMUP = 64, 10, 50, 0.995, 100


def main() -> None:
    """Trains for the given CPU time, and draws samples with DDIM."""
    _, job = parse(["unet"])
    torch.manual_seed(0)
    side = job.images.shape[1]
    network = UNet2DModel(
        sample_size=side,
        in_channels=job.images.shape[3],
        out_channels=job.images.shape[3],
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=None,
        num_class_embeds=CLASSES,
    )
    average = copy.deepcopy(network).requires_grad_(False)
    steps = fit(job, network, average)
    labels = np.arange(NUM_SAMPLES) % CLASSES
    parameters = sum(p.numel() for p in network.parameters())
    drawn = sample(average.eval(), labels, job.images.shape)
    save(job, drawn, steps=steps, parameters=parameters, labels=labels, batch_size=BATCH_SIZE)


def fit(job: Job, network: torch.nn.Module, average: torch.nn.Module) -> int:
    """Trains by the noise-prediction loss; returns the number of steps."""
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    images = torch.from_numpy(job.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(job.labels).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.9, 0.99))

    def step(number: int, indices: np.ndarray) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, number / WARMUP)
        x, y = images[indices], labels[indices]
        noise = torch.randn_like(x)
        t = torch.randint(0, 1000, (len(x),))
        predicted = network(noising.add_noise(x, noise, t), t, class_labels=y).sample
        loss = torch.nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(DECAY, (1 + number) / (10 + number))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    return train(job, step, batch_size=BATCH_SIZE)


@torch.no_grad()
def sample(network: torch.nn.Module, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draws an image of each label, floats in [-1, 1]."""
    drawn = []
    for chunk in np.array_split(labels, 4):
        # Its estimates of the image are clipped: without that, errors of the first steps grow beyond all bounds.
        solver = DDIMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=True)
        solver.set_timesteps(STEPS)
        x = torch.randn(len(chunk), shape[3], shape[1], shape[2])
        for t in solver.timesteps:
            noise = network(x, t, class_labels=torch.from_numpy(chunk)).sample
            x = solver.step(noise, t, x).prev_sample
        drawn.append(x.permute(0, 2, 3, 1).numpy())
    return np.concatenate(drawn)


if __name__ == "__main__":
    main()
