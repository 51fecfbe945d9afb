"""Operators that are locked on purpose: why no axis of theirs is cut.

The tracer puts the operator's name in front: "NonMaxSuppression returns positions". What stands neither here nor among
the rules is locked as well, because it "has no rule".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_DRAWS = "draws random numbers, which differ when there are fewer"
_TRAINS = "is a step of training"
_TEXT = "works on text"
_CLASSIC = "lists numbers for every feature in its attributes"
_TREES = "compares features that it names by their position"
_WINDOW = "computes its numbers from a size"
_SEARCH = "runs a whole model for every token"
_BLOCKED = "keeps channels in blocks, in the order of one machine: prune before ONNX Runtime's layout optimisation"
_LAYOUT = "is of ONNX Runtime's inner layout: prune before it assigns the graph to a device"
_RAGGED = "packs and unpacks rows by their positions"
_CACHE = "reads and writes a cache whose layout fixes heads and dims"
_STATES = "keeps states of a recurrence in a layout that fixes heads and dims"
_UNTRIED = "has kernels for GPUs alone, where no rule of it has been tried"
_PACKED = "reads weights that are packed in blocks"

_STANDARD = """
    NonMaxSuppression: returns positions
    MaxUnpool: reads positions that are counted over all channels
    ImageDecoder: decodes an image file
    Constant: holds what is no tensor of numbers
    Unique: finds values that are alike
    SequenceMap: runs a body on every tensor of a sequence
    Optional: holds a tensor or none
    OptionalGetElement: takes a tensor out of what may hold none
    OptionalHasElement: tells whether there is a tensor
"""
_GROUPS: Mapping[str, str] = {
    _DRAWS: "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
    _TRAINS: "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    _TEXT: "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    _WINDOW: "BlackmanWindow HammingWindow HannWindow MelWeightMatrix",
    _CLASSIC: """
        ai.onnx.ml.FeatureVectorizer ai.onnx.ml.Imputer ai.onnx.ml.LinearClassifier ai.onnx.ml.LinearRegressor
        ai.onnx.ml.Normalizer ai.onnx.ml.Scaler ai.onnx.ml.SVMClassifier ai.onnx.ml.SVMRegressor
    """,
    _TREES: """
        ai.onnx.ml.ArrayFeatureExtractor ai.onnx.ml.Binarizer ai.onnx.ml.TreeEnsemble
        ai.onnx.ml.TreeEnsembleClassifier ai.onnx.ml.TreeEnsembleRegressor
    """,
    "maps categories to numbers": """
        ai.onnx.ml.CastMap ai.onnx.ml.CategoryMapper ai.onnx.ml.DictVectorizer ai.onnx.ml.LabelEncoder
        ai.onnx.ml.OneHotEncoder ai.onnx.ml.ZipMap
    """,
    "is of a version of ONNX that was never released": "DynamicSlice GivenTensorFill GRUUnit",
    "copies between devices: prune before the graph is assigned to them": "MemcpyFromHost MemcpyToHost",
    "is a plug-in of one runtime": """
        DisentangledAttention_TRT EfficientNMS_TRT MultilevelCropAndResize_TRT PyramidROIAlign_TRT
    """,
    "runs subgraphs on its scores": "ai.onnx.preview.FlexAttention",
    "steps an optimizer": """
        ai.onnx.preview.training.Adagrad ai.onnx.preview.training.Adam ai.onnx.preview.training.Gradient
        ai.onnx.preview.training.Momentum
    """,
}
_MICROSOFT: Mapping[str, str] = {
    _DRAWS: "BitmaskBiasDropout BitmaskDropout",
    _TEXT: "Tokenizer WordConvEmbedding MurmurHash3 NGramHashMapping VarlenNGramHashMapping NGramRepeatBlock",
    _SEARCH: "BeamSearch GreedySearch Sampling WhisperBeamSearch BifurcationDetector SpeculativePrefixCommit",
    _RAGGED: "RemovePadding RestorePadding GatherPacked DynamicTimeWarping",
    _CACHE: """
        SparseAttention PagedAttention SparsePagedAttention SparseAttentionIndexer PackedSparseAttentionIndexer
        PackedSparseAttentionIndexerMerge DynamicSparseAttention DecoderAttention DecoderMaskedSelfAttention
    """,
    _STATES: """
        GatedDeltaNet GatedDeltaNetStateReplay ConvStateReplay Mamba2Verify VarlenCausalConvWithState
        LinearAttentionGate
    """,
    _UNTRIED: """
        GatedRelativePositionBias GemmaRotaryEmbedding HyperConnectionLowRankMix RMSNormRotary
        LongformerAttention RouterGateUpProj TorchEmbedding IsAllFinite GemmFloat8
    """,
    "has kernels for a few widths alone": "BiasAdd BiasSplitGelu",
    "keeps its table column by column": "RelativePositionBias",
    "rotates sections of a head that it names by their sizes": "MRotaryEmbedding",
    "normalises branches that it tells apart by their width": "BranchwiseRMSNorm",
    "mixes branches": "EngramGate HyperConnectionPostMix HyperConnectionPreMix",
    "selects experts by their positions": "MoEGroupRouter",
    "pools positions that a mask gives by value": "MaxpoolWithMask",
    "makes its numbers from sizes": "Range",
    "reads positions that are given by value": "GatherND Unique SparseToDenseMatMul",
    "is an example of a custom operator": "SampleOp",
    _PACKED: """
        MatMulPacked MoEPacked DequantizeBFP QuantizeBFP MatMulBlockQuantizedFp4Weight
        MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4 MatMulNBitsMlp MatMulNBitsQLoRA MatMulNBitsQkv
    """,
    "orders its matrices as one kind of GPU reads them": """
        DequantizeWithOrder QuantizeWithOrder QOrderedAttention QOrderedGelu QOrderedLayerNormalization
        QOrderedLongformerAttention QOrderedMatMul
    """,
    "adds up integers whose scales it does not know": "MatMulInteger16 MulInteger ReduceSumInteger",
    "adds up embeddings that are quantized with different scales": "QEmbedLayerNormalization",
    "quantizes its mean": "QLinearReduceMean",
    "is of a version of ONNX Runtime that was never released": "QLinearConv",
    "holds a graph that was compiled for one device": "EPContext Snpe",
    "is a recurrent network of an older kind": "AttnLSTM",
}
_NCHWC = "AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample"
_NHWC = """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool
    GridSample InstanceNormalization LRN LpPool MaxPool MaxUnpool QLinearAveragePool QLinearConv QLinearConvTranspose
    Resize SpaceToDepth
"""


def _rows() -> Iterator[tuple[str, str]]:
    for row in _STANDARD.strip().splitlines():
        op, _, reason = row.strip().partition(": ")
        yield op, reason
    for prefix, table in (
        ("", _GROUPS),
        ("com.microsoft.", _MICROSOFT),
        ("com.microsoft.nchwc.", {_BLOCKED: _NCHWC}),
        ("com.ms.internal.nhwc.", {_LAYOUT: _NHWC}),
    ):
        for reason, ops in table.items():
            yield from ((prefix + op, reason) for op in ops.split())


LOCKED: dict[str, str] = dict(_rows())
