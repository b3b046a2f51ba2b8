"""Real pipelines of diffusers with tiny networks and random weights, built without any download.

Random networks show equality, not convergence. None of the pipelines clips its predictions. Clipping makes a random
network chaotic: two sequential runs whose noise differs by rounding would differ visibly.
"""

import copy
import functools
import os
import string

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import torch
import transformers
from diffusers.utils import logging

transformers.logging.set_verbosity_error()
logging.set_verbosity_error()
logging.disable_progress_bar()

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
DDIM = {**LATENT, "clip_sample": False, "set_alpha_to_one": False}
PIXEL = {"clip_sample": False, "prediction_type": "v_prediction"}  # keeps the images of a random network within [0, 1]
BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
"""the blocks of all UNets"""


def new_generator(seed=0):
    return torch.Generator().manual_seed(seed)


@functools.cache
def clip_tokenizer():
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for c in map(chr, range(33, 127)):
        for token in (c, c + "</w>"):
            vocab.setdefault(token, len(vocab))
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


@functools.cache
def clip(projection=None, act="quick_gelu"):
    torch.manual_seed(0)
    more = {} if projection is None else {"projection_dim": projection}
    config = transformers.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        vocab_size=len(clip_tokenizer()),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=77,
        hidden_act=act,
        **more,
    )
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return kind(config).eval()


@functools.cache
def t5():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(c, -3.0) for c in string.ascii_letters + string.digits + ".,"]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77)
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return tokenizer, transformers.T5EncoderModel(config).eval()


@functools.cache
def vae(latent=4, **options):
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        latent_channels=latent,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
        **options,
    ).eval()


def unet(width=32, **options):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=width,
        **{**BLOCKS, **options},
    ).eval()


def sd(kind=diffusers.StableDiffusionPipeline, scheduler=None, **more):
    return kind(
        vae=vae(),
        unet=unet(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        scheduler=scheduler or diffusers.DDIMScheduler(**DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )


def controlnet(seed=1, width=32, **options):
    torch.manual_seed(seed)
    net = diffusers.ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=width,
        down_block_types=BLOCKS["down_block_types"],
        conditioning_embedding_out_channels=(8, 16),
        **options,
    ).eval()
    return randomize_layers(net, *net.controlnet_down_blocks, net.controlnet_mid_block)


XL = {
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 1),
    "projection_class_embeddings_input_dim": 80,
}


def sdxl(kind=diffusers.StableDiffusionXLPipeline, scheduler=None, **more):
    return kind(
        vae=vae(),
        unet=unet(64, **XL),
        text_encoder=clip(),
        text_encoder_2=clip(32, "gelu"),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**LATENT, timestep_spacing="leading"),
        **more,
    )


FLOW_VAE = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609, "scaling_factor": 1.5305}
SD3 = {
    "sample_size": 8,
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,  # the last layer ignores the output of a ControlNet
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 64,
    "out_channels": 4,
}
FLUX = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
    "guidance_embeds": True,
}


def randomize_layers(net, *layers):
    """Return a ControlNet with random weights in its last layers: they are zero initially, and hide its output."""
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net


def sd3(kind=diffusers.StableDiffusion3Pipeline, scheduler=None, **more):
    torch.manual_seed(0)
    tokenizer, encoder = t5()
    return kind(
        transformer=diffusers.SD3Transformer2DModel(**SD3).eval(),
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(**FLOW_VAE),
        text_encoder=clip(32),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(32),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=tokenizer,
        **more,
    )


def flux(kind=diffusers.FluxPipeline, scheduler=None, **more):
    torch.manual_seed(0)
    tokenizer, encoder = t5()
    return kind(
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(1, **FLOW_VAE),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=diffusers.FluxTransformer2DModel(**FLUX).eval(),
        **more,
    )


def sd3_with_controlnet(scheduler=None):
    torch.manual_seed(1)
    net = diffusers.SD3ControlNetModel(**SD3).eval()
    randomize_layers(net, *net.controlnet_blocks, net.pos_embed_input.proj)
    pipe = sd3(diffusers.StableDiffusion3ControlNetPipeline, scheduler, controlnet=net)
    # The VAE encodes control images with noise of the global generator. Here its variance is set to almost zero, in a
    # copy, because other pipelines share the VAE.
    pipe.vae = copy.deepcopy(pipe.vae)
    last, channels = pipe.vae.encoder.conv_out, pipe.vae.config.latent_channels
    torch.nn.init.zeros_(last.weight[channels:])
    torch.nn.init.constant_(last.bias[channels:], -30.0)
    return pipe


def flux_with_controlnet(scheduler=None):
    torch.manual_seed(1)
    net = diffusers.FluxControlNetModel(**FLUX).eval()
    randomize_layers(net, *net.controlnet_blocks, *net.controlnet_single_blocks, net.controlnet_x_embedder)
    return flux(diffusers.FluxControlNetPipeline, scheduler, controlnet=net)


def pixels(kind=diffusers.DDPMPipeline, scheduler=None, **options):
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        norm_num_groups=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    ).eval()
    return kind(unet=net, scheduler=scheduler or diffusers.DDPMScheduler(**PIXEL))


def dit(scheduler=None):
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    ).eval()
    return diffusers.DiTPipeline(transformer=net, vae=vae(), scheduler=scheduler or diffusers.DDIMScheduler(**DDIM))


def image_projection(inner, width):
    """Return the weights of an IP-Adapter's projection of an image to four tokens."""
    torch.manual_seed(6)
    return {
        "proj.weight": 0.3 * torch.randn(4 * inner, width),
        "proj.bias": torch.zeros(4 * inner),
        "norm.weight": torch.ones(inner),
        "norm.bias": torch.zeros(inner),
    }


def add_ip_adapter(net, width=16):
    """Load an IP-Adapter with random weights into a UNet, by the loader of diffusers' pipelines."""
    inner = net.config.cross_attention_dim
    projection = image_projection(inner, width)
    layers = {}
    number = 1
    for name in net.attn_processors:
        if name.endswith("attn1.processor") or "motion" in name:
            continue
        module = net.get_submodule(name.removesuffix(".processor"))
        size = module.to_k.weight.shape[0]
        layers[f"{number}.to_k_ip.weight"] = 0.3 * torch.randn(size, inner)
        layers[f"{number}.to_v_ip.weight"] = 0.3 * torch.randn(size, inner)
        number += 2
    net._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}], low_cpu_mem_usage=False)


def add_ip_adapter_to_sd3(net, width=16):
    """Install an IP-Adapter with random weights in the transformer of Stable Diffusion 3."""
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
    from diffusers.models.embeddings import IPAdapterTimeImageProjection

    torch.manual_seed(6)
    inner = SD3["attention_head_dim"] * SD3["num_attention_heads"]
    sizes = {"hidden_size": inner, "ip_hidden_states_dim": inner, "head_dim": SD3["attention_head_dim"]}
    net.set_attn_processor(
        {name: SD3IPAdapterJointAttnProcessor2_0(**sizes, timesteps_emb_dim=24) for name in net.attn_processors}
    )
    net.image_proj = IPAdapterTimeImageProjection(
        embed_dim=width, output_dim=inner, hidden_dim=24, dim_head=8, heads=2, num_queries=4, timestep_in_dim=8
    )


def add_ip_adapter_to_flux(net, width=16):
    """Install an IP-Adapter with random weights in the transformer of Flux."""
    inner, outer = net.inner_dim, net.config.joint_attention_dim
    projection = image_projection(outer, width)
    layers = {}
    for number in range(net.config.num_layers):
        for part in ("k", "v"):
            layers[f"{number}.to_{part}_ip.weight"] = 0.3 * torch.randn(inner, outer)
            layers[f"{number}.to_{part}_ip.bias"] = torch.zeros(inner)
    net._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}], low_cpu_mem_usage=False)
