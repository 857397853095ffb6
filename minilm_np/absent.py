"""Names of sentence-transformers that this package does not have: importing one says why and what to use instead."""

from __future__ import annotations

TRAINING = "minilm_np.training.train trains a model here; the trainer of sentence-transformers is not there"
OTHER_MODELS = "this package runs BERT sentence encoders only; sentence-transformers has the other kinds of models"
EXPORT = "this package reads and writes safetensors only; sentence-transformers exports models"
MODULES = "the model is one piece here, without modules; load a folder with SentenceTransformer(folder)"
INDEX = "use util.semantic_search_quantized, an exact search without an index library"
MANY_VECTORS = "this model has one vector per text; MaxSim compares several"
TENSORS = "this works on the Tensors of models that run in PyTorch"

NAMES: dict[str, dict[str, str]] = {
    "minilm_np": {
        **dict.fromkeys(
            (
                *("InputExample", "SentencesDataset", "ParallelSentencesDataset", "mine_hard_negatives", "resolve_ids"),
                *("SentenceTransformerTrainer", "SentenceTransformerTrainingArguments", "DefaultBatchSampler"),
                *("MultiDatasetDefaultBatchSampler", "losses", "readers", "datasets", "trainer", "training_args"),
            ),
            TRAINING,
        ),
        **dict.fromkeys(
            (
                f"{model}{suffix}"
                for model in ("CrossEncoder", "SparseEncoder", "MultiVectorEncoder")
                for suffix in ("", "Trainer", "TrainingArguments", "ModelCardData")
            ),
            OTHER_MODELS,
        ),
        **dict.fromkeys(("cross_encoder", "sparse_encoder", "multi_vector_encoder"), OTHER_MODELS),
        **dict.fromkeys(
            (
                *("export_optimized_onnx_model", "export_dynamic_quantized_onnx_model"),
                "export_static_quantized_openvino_model",
            ),
            EXPORT,
        ),
        "SentenceTransformerModelCardData": "save_pretrained writes a model card without options",
        "models": MODULES,
    },
    "minilm_np.util": {
        "http_get": "use urllib.request.urlretrieve(url, path), or huggingface_hub for files of the hub",
        **dict.fromkeys(("semantic_search_faiss", "semantic_search_usearch"), INDEX),
        **dict.fromkeys(("maxsim", "maxsim_pairwise", "mean_maxsim", "mean_maxsim_pairwise"), MANY_VECTORS),
        **dict.fromkeys(("mine_hard_negatives", "resolve_ids", "check_teacher_targets"), TRAINING),
        **dict.fromkeys(
            (
                *("all_gather", "all_gather_padded", "all_gather_with_grad", "get_rank", "get_world_size"),
                *("cat_padded_token_embeddings", "stack_padded_token_embeddings", "repad_flattened_features"),
                *("compute_count_vector", "select_max_active_dims", "to_scipy_coo", "is_dist_initialized"),
            ),
            TENSORS,
        ),
        "information_retrieval": "use util.semantic_search",
        "get_device_name": 'the device is always "cpu"',
        "install_logger": "use logging.basicConfig",
        "is_sentence_transformer_model": "SentenceTransformer(folder) says why a folder is not one",
    },
    "minilm_np.evaluation": {
        "NanoBEIREvaluator": "it downloads its data; load them and call InformationRetrievalEvaluator once per set",
        **dict.fromkeys(
            (
                *("ParaphraseMiningEvaluator", "MSEEvaluator", "MSEEvaluatorFromDataFrame", "SequentialEvaluator"),
                *("LabelAccuracyEvaluator", "SentenceEvaluator", "TranslationEvaluator"),
            ),
            "use the class of sentence-transformers",
        ),
    },
}
MODEL: dict[str, str] = {  # attributes of a model
    **dict.fromkeys(("fit", "old_fit", "train", "zero_grad", "requires_grad_", "smart_batching_collate"), TRAINING),
    **dict.fromkeys(
        (
            *(
                "parameters",
                "named_parameters",
                "state_dict",
                "load_state_dict",
                "modules",
                "named_modules",
                "children",
            ),
            *("named_children", "buffers", "register_forward_hook", "apply", "auto_model", "transformers_model"),
        ),
        "it is no PyTorch module; model.weights has the parameters by name, and model.stages(texts) what is computed",
    ),
    **dict.fromkeys(
        ("half", "float", "double", "bfloat16", "cuda", "compile"),
        "this model computes in float32 on the CPU; dtype='float64' computes in float64",
    ),
    **dict.fromkeys(
        ("push_to_hub", "save_to_hub"), "use save_pretrained(folder), then huggingface_hub's upload_folder"
    ),
}
NAMES["minilm_np.evaluate"] = NAMES["minilm_np.evaluation"]
NAMES["minilm_np.quantization"] = NAMES["minilm_np.util"]


def check_absent(module: str, name: str) -> None:
    """Raise ImportError if `name` is one that sentence-transformers has in the module of the same name.

    It is an ImportError also for `module.name`, because `from module import name` hides the text of an AttributeError.
    """
    reason = NAMES[module].get(name)
    if reason:
        raise ImportError(f"{name}: {module} has no such name; {reason}", name=module)
