"""The sizes of small models, by the names that configs have for them."""

from __future__ import annotations

from typing import Any

VOCABULARY, WIDTH, LAYERS, HEADS, WINDOW, POSITIONS = 96, 32, 2, 4, 8, 64
PAD, BOS, EOS = 0, 1, 2

# Field of a config -> its small value. Only fields that a config has, and that are numbers there, are set.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "src_vocab_size", "tgt_vocab_size"), VOCABULARY),
    **dict.fromkeys(("vocab_size_per_layer_input", "text_vocab_size", "audio_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "d_embed", "model_dim", "embed_dim"), WIDTH),
    **dict.fromkeys(("hidden_size_global", "encoder_hidden_size", "audio_embed_dim"), WIDTH),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "input_embedding_size", "emb_dim"), WIDTH),
    **dict.fromkeys(("output_embedding_size", "hidden_size_per_layer_input", "lru_width"), WIDTH),
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "decoder_hidden_size"), WIDTH),
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim"), 2 * WIDTH),
    **dict.fromkeys(("decoder_ffn_dim", "ffn_hidden_size", "d_inner", "dim_ff", "dff"), 2 * WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), WIDTH),
    **dict.fromkeys(("feed_forward_size", "shared_intermediate_size", "intermediate_size_mlp"), 2 * WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_encoder_layers", "depth"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "nhead"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads"), HEADS // 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_dim", "global_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("rotary_dim", "qk_rope_head_dim"), WIDTH // HEADS // 2),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"), WIDTH // HEADS),
    **dict.fromkeys(("index_head_dim", "index_n_heads"), 8),
    **dict.fromkeys(("sliding_window", "attention_window", "window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("local_attention", "attention_window_size", "block_size"), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("seq_length", "max_target_positions", "max_sequence_length"), POSITIONS),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), HEADS),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_head_dim", "linear_key_head_dim", "linear_value_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), HEADS // 2),
    **dict.fromkeys(("time_step_rank", "mamba_n_groups", "n_groups", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_mel_bins", "input_feat_per_channel", "num_mel_channels"), 16),
    **dict.fromkeys(("max_source_positions", "seq_len"), 20),
    **dict.fromkeys(("conv_channels", "audio_hidden_size"), WIDTH),
    **dict.fromkeys(("blank_token_id", "upsample_groups"), 16),
    **dict.fromkeys(("vision_feature_layer",), -1),
    **dict.fromkeys(("image_size",), 16),
    **dict.fromkeys(("patch_size",), 8),
    **dict.fromkeys(("activation_dropout", "dropout", "attention_dropout", "layerdrop"), 0.0),
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop", "hidden_dropout", "classifier_dropout"), 0.0),
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
ALWAYS = ("pad_token_id", "bos_token_id", "eos_token_id", "head_dim")
"""Fields that are set where they are zero or None, too."""
LAYER_WORDS = ("layer_types", "mlp_layer_types")
POSITION_FIELDS = ("max_position_embeddings",)
FIELDS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "bert-generation": {"hidden_act": "gelu"},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_theta": 1e4, "rope_type": "default"}}
    },
    "chameleon": {"vocabulary_map": {"<image>": 3, "IMGIMGAZ": 4, "IMGIMGBZ": 5}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": WIDTH},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note_text": {"per_layer_config": {}, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "head_dim": 12},
    "emu3": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 4}},
    "ernie4_5_vl_moe_text": {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "intermediate_size": [64, 64],
        "activation_sparsity_pattern": [0.0, 0.0],
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
    },
    "gemma4_text": {"head_dim": 8, "per_layer_config": {"01": {"head_dim": 16}}},
    "gemma4_unified_text": {"head_dim": 8, "per_layer_config": {"01": {"head_dim": 16}}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite4_vision": {
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
        "vision_config": {"hidden_size": 64},
    },
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    # The window of its cache limits the length, like positions: it has no mask of a window.
    "moshi": {"sliding_window": POSITIONS},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl_text": {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 70},
    "qwen4_exp_text": {
        "indexer_n_heads": HEADS,
        "indexer_kv_heads": 1,
        "indexer_head_dim": WIDTH // HEADS,
        "indexer_budget": WINDOW,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"axial_pos_embds": False},
    "whisper": {"begin_suppress_tokens": [5, EOS], "suppress_tokens": [6, 7]},
    "nllb-moe": {"encoder_sparse_step": 1, "decoder_sparse_step": 1},
    "switch_transformers": {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2},
    "xmod": {"default_language": "en_XX"},
    "youtu": {"head_dim": WIDTH // HEADS // 2},
    "kyutai_speech_to_text": {"num_codebooks": 2, "codebook_vocab_size": 32, "audio_pad_token_id": 70},
    "moonshine_streaming_encoder": {"sliding_windows": [[8, 4], [8, 0]]},
    "moonshine_streaming": {"num_key_value_heads": HEADS},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": WIDTH // 4}},
    "fun_asr_nano_encoder": {"num_timestamp_prediction_layers": 1},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""Fields that a model type needs besides."""
