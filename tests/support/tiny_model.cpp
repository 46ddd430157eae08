#include "tests/support/tiny_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <vector>

#include "loader/gguf_writer.h"
#include "memory/extent.h"
#include "tests/support/random_blocks.h"
#include "tests/support/synthetic_vocab.h"

namespace spillway {
namespace {

// What makes a random model behave like a model: queries and keys a little large, so that attention picks tokens out
// instead of averaging all; logits spread by a few nats.
constexpr double kQueryKeyGain = 1.5;
constexpr double kLogitDeviation = 2.5;
constexpr double kRouterDeviation = 2.0;
constexpr double kPositionDeviation = 0.25;  // beside embeddings of 1: neighbours differ, and words still count
constexpr int kOptPositionOffset = 2;        // rows before that of position 0, as in OPT's own files

constexpr const char* kChatTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// llama.cpp's numbers of whole files ("mostly Q4_K, small").
uint32_t file_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0;
    case DType::f16:
      return 1;
    case DType::q4_0:
      return 2;
    case DType::q4_1:
      return 3;
    case DType::q8_0:
      return 7;
    case DType::q5_0:
      return 8;
    case DType::q5_1:
      return 9;
    case DType::q2_k:
      return 10;
    case DType::q3_k:
      return 11;
    case DType::q4_k:
      return 14;
    case DType::q5_k:
      return 16;
    case DType::q6_k:
      return 18;
    case DType::iq4_nl:
      return 25;
    case DType::iq4_xs:
      return 30;
    case DType::bf16:
      return 32;
    case DType::i32:
      break;
  }
  throw Error(ErrorKind::usage, "weights of type I32 are no model's");
}

// The layers whose most sensitive matrices get more bits in llama.cpp's mixtures: the first and last eighths, and every
// third between.
bool takes_more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

// Writes the header's facts, and knows how each tensor's rows are drawn.
class ModelFile {
 public:
  explicit ModelFile(const TinyModelOptions& o)
      : options_(o), writer_({.version = o.gguf_version, .alignment = o.alignment, .parts = o.parts}) {
    check();
    set_facts();
    set_vocabulary();
    add_tensors();
  }

  // The header, and nothing but holes where the tensors would be.
  std::string outline(const std::string& path) const {
    SPILLWAY_CHECK(options_.parts == 1);
    const std::vector<std::byte> header = writer_.header(0);
    uint64_t bytes = header.size();
    for (const GgufTensor& tensor : writer_.tensors()) bytes += align_up(tensor.bytes(), options_.alignment);
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(header.data()), static_cast<std::streamsize>(header.size()));
    out.close();
    std::error_code error;
    if (out) std::filesystem::resize_file(path, bytes, error);
    if (!out || error) throw Error(ErrorKind::io, fmt::format("{}: cannot write {} bytes of holes", path, bytes));
    return path;
  }

  std::string write(const std::string& path) const {
    return writer_.write(path, [this](const GgufTensor& tensor, int64_t first, int64_t rows, std::byte* into) {
      const uint64_t stride = row_bytes(tensor.dtype, tensor.cols);
      for (int64_t r = first; r < first + rows; ++r, into += stride) fill_row(tensor, r, into);
    });
  }

 private:
  void check() const {
    const TinyModelOptions& o = options_;
    for (auto [name, value] : std::initializer_list<std::pair<const char*, int>>{{"layers", o.layers},
                                                                                 {"hidden", o.hidden},
                                                                                 {"heads", o.heads},
                                                                                 {"kv_heads", o.kv_heads},
                                                                                 {"head_dim", o.head_dim},
                                                                                 {"ffn", o.ffn},
                                                                                 {"context", o.context}}) {
      if (value < 1) throw Error(ErrorKind::usage, fmt::format("{} is {}: it must be at least 1", name, value));
    }
    if (o.heads % o.kv_heads != 0) {
      throw Error(ErrorKind::usage, fmt::format("{} heads do not divide among {} KV heads", o.heads, o.kv_heads));
    }
    if (o.head_dim % 2 != 0) throw Error(ErrorKind::usage, fmt::format("head_dim {} is odd", o.head_dim));
    if (o.vocab < SyntheticVocab::kSmallest) {
      throw Error(ErrorKind::usage, fmt::format("vocab is {}: the bytes and the special tokens alone are {}", o.vocab,
                                                SyntheticVocab::kSmallest));
    }
    if (o.family != "llama" && o.family != "qwen3moe" && !opt()) {
      throw Error(ErrorKind::usage, fmt::format("{} is no family that is written", o.family));
    }
    if (o.experts > 0 ? o.experts_used < 1 || o.experts_used > o.experts || opt() : o.family == "qwen3moe") {
      throw Error(ErrorKind::usage,
                  fmt::format("{}: {} of {} experts cannot be used", o.family, o.experts_used, o.experts));
    }
    if (o.tied && o.output_type) throw Error(ErrorKind::usage, "a tied model has no output matrix of its own type");
  }

  void set_facts() {
    const TinyModelOptions& o = options_;
    const auto key = [&o](const char* name) { return o.family + "." + name; };
    auto count = [&](const char* name, int value) { writer_.set(key(name), static_cast<uint32_t>(value)); };
    writer_.set("general.architecture", o.family);
    writer_.set("general.name", o.name);
    writer_.set("general.file_type", file_type(o.type));
    writer_.set("general.quantization_version", uint32_t{2});
    count("block_count", o.layers);
    count("context_length", o.context);
    count("embedding_length", o.hidden);
    // Mixtral's files say of each expert what others say of the one part there is.
    count("feed_forward_length", o.experts > 0 && o.family == "llama" ? expert_ffn() : o.ffn);
    count("attention.head_count", o.heads);
    count("attention.head_count_kv", o.kv_heads);
    writer_.set(key(opt() ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"), o.norm_eps);
    if (o.head_dim * o.heads != o.hidden) {  // as the converters do: only where the default does not hold
      count("attention.key_length", o.head_dim);
      count("attention.value_length", o.head_dim);
    }
    if (opt()) {
      count("position_offset", kOptPositionOffset);
    } else {
      count("rope.dimension_count", o.head_dim);
      writer_.set(key("rope.freq_base"), o.rope_base);
    }
    count("vocab_size", o.vocab);
    if (o.experts == 0) return;
    count("expert_count", o.experts);
    count("expert_used_count", o.experts_used);
    if (o.family == "qwen3moe") count("expert_feed_forward_length", expert_ffn());
  }

  void set_vocabulary() {
    SyntheticVocab vocab = make_synthetic_vocab(options_.vocab);
    writer_.set("tokenizer.ggml.model", std::string("gpt2"));
    writer_.set("tokenizer.ggml.pre", std::string("gpt-2"));
    writer_.set("tokenizer.ggml.tokens", std::move(vocab.tokens));
    writer_.set("tokenizer.ggml.token_type", std::move(vocab.types));
    writer_.set("tokenizer.ggml.merges", std::move(vocab.merges));
    writer_.set("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(SyntheticVocab::kBos));
    writer_.set("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(SyntheticVocab::kEos));
    writer_.set("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(SyntheticVocab::kUnknown));
    writer_.set("tokenizer.ggml.add_bos_token", false);
    writer_.set("tokenizer.chat_template", std::string(kChatTemplate));
  }

  void matrix(const std::string& name, DType dtype, int rows, int cols, double deviation) {
    writer_.add({.name = name, .dtype = dtype, .rows = rows, .cols = cols});
    deviations_[name] = deviation;
  }
  int expert_ffn() const { return options_.expert_ffn > 0 ? options_.expert_ffn : options_.ffn; }
  // The same matrix of all experts.
  void stack(const std::string& name, DType dtype, int rows, int cols) {
    const int count = options_.experts;
    writer_.add({.name = name, .dtype = dtype, .rows = int64_t{count} * rows, .cols = cols, .stacked = count});
    deviations_[name] = 1.0 / std::sqrt(static_cast<double>(cols));
  }
  // Deviation 1 / sqrt(cols), so that outputs are as large as inputs.
  void projection(const std::string& name, int rows, int cols, double gain = 1.0) {
    matrix(name, options_.type, rows, cols, gain / std::sqrt(static_cast<double>(cols)));
  }
  DType sensitive_type(int layer) const {
    const bool more = options_.more_bits_type && takes_more_bits(layer, options_.layers);
    return more ? *options_.more_bits_type : options_.type;
  }
  void sensitive_projection(int layer, const std::string& name, int rows, int cols) {
    matrix(name, sensitive_type(layer), rows, cols, 1.0 / std::sqrt(static_cast<double>(cols)));
  }
  bool opt() const { return options_.family == "opt"; }
  // OPT's projections and norms have biases, the others' have none.
  void bias(const std::string& name, int cols) {
    if (opt()) vector(name, cols);
  }
  void vector(const std::string& name, int cols) {
    writer_.add({.name = name, .dtype = DType::f32, .rows = 1, .cols = cols, .vector = true});
  }

  void add_feed_forward(int layer, const std::string& block) {
    const TinyModelOptions& o = options_;
    if (o.experts == 0) {
      if (!opt()) projection(block + "ffn_gate.weight", o.ffn, o.hidden);
      projection(block + "ffn_up.weight", o.ffn, o.hidden);
      bias(block + "ffn_up.bias", o.ffn);
      sensitive_projection(layer, block + "ffn_down.weight", o.hidden, o.ffn);
      bias(block + "ffn_down.bias", o.hidden);
      return;
    }
    // Choices that differ from token to token, none of them close.
    matrix(block + "ffn_gate_inp.weight", DType::f32, o.experts, o.hidden,
           kRouterDeviation / std::sqrt(static_cast<double>(o.hidden)));
    stack(block + "ffn_gate_exps.weight", o.type, expert_ffn(), o.hidden);
    stack(block + "ffn_up_exps.weight", o.type, expert_ffn(), o.hidden);
    stack(block + "ffn_down_exps.weight", sensitive_type(layer), o.hidden, expert_ffn());
  }

  void add_attention(int layer, const std::string& block) {
    const TinyModelOptions& o = options_;
    const int queries = o.heads * o.head_dim, keys = o.kv_heads * o.head_dim;
    projection(block + "attn_q.weight", queries, o.hidden, kQueryKeyGain);
    bias(block + "attn_q.bias", queries);
    projection(block + "attn_k.weight", keys, o.hidden, kQueryKeyGain);
    bias(block + "attn_k.bias", keys);
    sensitive_projection(layer, block + "attn_v.weight", keys, o.hidden);
    bias(block + "attn_v.bias", keys);
    projection(block + "attn_output.weight", o.hidden, queries);
    bias(block + "attn_output.bias", o.hidden);
    if (o.family == "qwen3moe") {
      vector(block + "attn_q_norm.weight", o.head_dim);
      vector(block + "attn_k_norm.weight", o.head_dim);
    }
  }

  void add_tensors() {
    const TinyModelOptions& o = options_;
    const double head_deviation = kLogitDeviation / std::sqrt(static_cast<double>(o.hidden));
    const DType embedding_type = o.embedding_type.value_or(o.type);
    matrix("token_embd.weight", embedding_type, o.vocab, o.hidden, o.tied ? head_deviation : 1.0);
    if (opt()) {
      matrix("position_embd.weight", embedding_type, o.context + kOptPositionOffset, o.hidden, kPositionDeviation);
    }
    if (o.rope_factors) vector("rope_freqs.weight", o.head_dim / 2);
    for (int layer = 0; layer < o.layers; ++layer) {
      const std::string block = fmt::format("blk.{}.", layer);
      vector(block + "attn_norm.weight", o.hidden);
      bias(block + "attn_norm.bias", o.hidden);
      add_attention(layer, block);
      vector(block + "ffn_norm.weight", o.hidden);
      bias(block + "ffn_norm.bias", o.hidden);
      add_feed_forward(layer, block);
    }
    vector("output_norm.weight", o.hidden);
    bias("output_norm.bias", o.hidden);
    if (!o.tied) matrix("output.weight", o.output_type.value_or(o.type), o.vocab, o.hidden, head_deviation);
  }

  void fill_row(const GgufTensor& tensor, int64_t row, std::byte* into) const {
    if (tensor.vector) {
      const std::vector<float> values = tensor.name == "rope_freqs.weight" ? factors(tensor.cols) : norm(tensor);
      std::memcpy(into, values.data(), values.size() * sizeof(float));
      return;
    }
    const bool head = tensor.name == (options_.tied ? "token_embd.weight" : "output.weight");
    if (head &&
        row == SyntheticVocab::kEos) {  // its logit is 0, never the largest: greedy text runs to the length asked for
      std::memset(into, 0, row_bytes(tensor.dtype, tensor.cols));
      return;
    }
    fill_random_row(row_bits(options_.seed, tensor.name, row), tensor.dtype, tensor.cols, deviations_.at(tensor.name),
                    into);
  }

  // Norm weights lie in [0.75, 1.25), biases in [-0.25, 0.25).
  std::vector<float> norm(const GgufTensor& tensor) const {
    RandomBits bits = row_bits(options_.seed, tensor.name, 0);
    const float least = tensor.name.ends_with(".bias") ? -0.25f : 0.75f;
    std::vector<float> values(static_cast<size_t>(tensor.cols));
    for (float& value : values) value = least + static_cast<float>(bits.next() >> 40) * 0x1p-25f;
    return values;
  }
  // Fast pairs keep their frequency, slow ones are slowed by up to 8, as in Llama 3's files.
  static std::vector<float> factors(int64_t pairs) {
    std::vector<float> values(static_cast<size_t>(pairs), 1.0f);
    for (int64_t i = pairs / 2; i < pairs; ++i) {
      values[static_cast<size_t>(i)] =
          1.0f + 7.0f * static_cast<float>(i - pairs / 2 + 1) / static_cast<float>(pairs - pairs / 2);
    }
    return values;
  }

  const TinyModelOptions& options_;
  GgufWriter writer_;
  std::map<std::string, double> deviations_;
};

}  // namespace

std::string write_model(const TinyModelOptions& options, const std::string& path) {
  return ModelFile(options).write(path);
}

std::string write_model_outline(const TinyModelOptions& options, const std::string& path) {
  return ModelFile(options).outline(path);
}

std::string write_tiny_model(const TinyModelOptions& options, const std::string& directory) {
  return write_model(options, directory + "/" + options.name + ".gguf");
}

std::span<const TinyModelOptions> golden_models() {
  static const TinyModelOptions models[] = {
      {.seed = 11, .name = "golden-f32"},
      {.layers = 5,
       .hidden = 64,
       .heads = 4,
       .kv_heads = 4,
       .head_dim = 80,
       .ffn = 192,
       .vocab = 300,
       .type = DType::q4_0,
       .tied = true,
       .seed = 12,
       .norm_eps = 1e-6f,
       .rope_base = 500000.0f,
       .rope_factors = true,
       .name = "golden-q4_0"},
      {.layers = 4,
       .hidden = 192,
       .heads = 6,
       .kv_heads = 2,
       .head_dim = 96,
       .ffn = 256,
       .vocab = 333,
       .type = DType::q4_1,
       .embedding_type = DType::q8_0,
       .tied = true,
       .seed = 13,
       .rope_base = 100000.0f,
       .name = "golden-q4_1"},
      {.layers = 4,
       .hidden = 256,
       .heads = 2,
       .kv_heads = 1,
       .head_dim = 128,
       .ffn = 224,
       .vocab = 310,
       .type = DType::f16,
       .embedding_type = DType::bf16,
       .output_type = DType::q8_0,
       .seed = 14,
       .norm_eps = 1e-4f,
       .alignment = 4096,
       .parts = 3,
       .name = "golden-f16"},
      // Blocks of 256, and several types to a model.
      {.layers = 3,
       .hidden = 256,
       .heads = 4,
       .kv_heads = 2,
       .head_dim = 64,
       .ffn = 512,
       .vocab = 300,
       .type = DType::q4_k,
       .more_bits_type = DType::q6_k,
       .embedding_type = DType::q5_k,
       .output_type = DType::q3_k,
       .seed = 15,
       .name = "golden-q4_k"},
      {.layers = 3,
       .hidden = 256,
       .heads = 8,
       .kv_heads = 2,
       .head_dim = 32,
       .ffn = 256,
       .vocab = 300,
       .type = DType::iq4_xs,
       .more_bits_type = DType::q5_0,
       .embedding_type = DType::q5_1,
       .output_type = DType::iq4_nl,
       .seed = 16,
       .name = "golden-iq4_xs"},
  };
  return models;
}

}  // namespace spillway
