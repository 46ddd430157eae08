// GgufBytes: a GGUF in memory whose every field a test may set, also to what no writer would write.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace spillway {

class GgufBytes {
 public:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // fastest first
    uint32_t type = 0;           // F32
    uint64_t bytes = 0;          // of zeros laid into the file
    std::optional<uint64_t> offset = {};
  };

  uint32_t magic = 0x46554747;
  uint32_t version = 3;
  std::optional<uint64_t> key_count, tensor_count;  // else as many as there are
  uint64_t alignment = 32;                          // of what is laid out; the key is the test's own business
  std::vector<Tensor> tensors;

  // A key set again keeps its place.
  void raw(const std::string& key, uint32_t type, const std::string& bytes) {
    for (auto& [name, record] : keys_) {
      if (name == key) {
        record = number(type) + bytes;
        return;
      }
    }
    keys_.emplace_back(key, number(type) + bytes);
  }
  void again(const std::string& key) { keys_.emplace_back(key, number<uint32_t>(4) + number<uint32_t>(1)); }
  void u32(const std::string& key, uint32_t value) { raw(key, 4, number(value)); }
  void f32(const std::string& key, float value) { raw(key, 6, number(value)); }
  void flag(const std::string& key, bool value) { raw(key, 7, number<uint8_t>(value)); }
  void text(const std::string& key, const std::string& value) { raw(key, 8, string(value)); }
  void texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& value : values) bytes += string(value);
    array(key, 8, values.size(), bytes);
  }
  void i32s(const std::string& key, const std::vector<int32_t>& values) {
    std::string bytes;
    for (const int32_t value : values) bytes += number(value);
    array(key, 5, values.size(), bytes);
  }
  void array(const std::string& key, uint32_t type, uint64_t count, const std::string& bytes) {
    raw(key, 9, number(type) + number(count) + bytes);
  }
  void erase(const std::string& key) {
    std::erase_if(keys_, [&](const auto& record) { return record.first == key; });
  }
  Tensor& tensor(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    return tensors.emplace_back(Tensor{name, {1}, 0, 4, {}});
  }
  void erase_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; });
  }

  std::string header() const {
    std::string out = number(magic) + number(version);
    out += number<uint64_t>(tensor_count.value_or(tensors.size())) + number<uint64_t>(key_count.value_or(keys_.size()));
    for (const auto& [key, record] : keys_) out += string(key) + record;
    uint64_t next = 0;
    for (const Tensor& tensor : tensors) {
      out += string(tensor.name) + number(static_cast<uint32_t>(tensor.dims.size()));
      for (const uint64_t size : tensor.dims) out += number(size);
      out += number(tensor.type) + number(tensor.offset.value_or(next));
      next += padded(tensor.bytes);
    }
    return out;
  }
  std::string file() const {
    std::string out = header();
    out.resize(padded(out.size()));
    for (const Tensor& tensor : tensors) out.resize(out.size() + padded(tensor.bytes));
    return out;
  }

  template <typename T>
  static std::string number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }
  static std::string string(const std::string& value) { return number<uint64_t>(value.size()) + value; }

 private:
  uint64_t padded(uint64_t bytes) const { return (bytes + alignment - 1) / alignment * alignment; }

  std::vector<std::pair<std::string, std::string>> keys_;
};

// The smallest whole model: one layer of llama, 8 tokens.
inline GgufBytes smallest_llama() {
  GgufBytes model;
  model.text("general.architecture", "llama");
  model.u32("llama.block_count", 1);
  model.u32("llama.context_length", 64);
  model.u32("llama.embedding_length", 16);
  model.u32("llama.feed_forward_length", 8);
  model.u32("llama.attention.head_count", 2);
  model.u32("llama.attention.head_count_kv", 1);
  model.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  model.text("tokenizer.ggml.model", "gpt2");
  model.text("tokenizer.ggml.pre", "gpt-2");
  model.texts("tokenizer.ggml.tokens", {"<|im_end|>", "a", "b", "c", "ab", "abc", "\xc4\xa0", "\xc4\xa0" "a"});
  model.i32s("tokenizer.ggml.token_type", {3, 1, 1, 1, 1, 1, 1, 1});
  model.texts("tokenizer.ggml.merges", {"a b", "ab c", "\xc4\xa0 a"});
  model.u32("tokenizer.ggml.eos_token_id", 0);
  const auto add = [&](const std::string& name, std::vector<uint64_t> dims) {
    uint64_t bytes = 4;
    for (const uint64_t size : dims) bytes *= size;
    model.tensors.push_back({name, std::move(dims), 0, bytes, {}});
  };
  add("token_embd.weight", {16, 8});
  add("output_norm.weight", {16});
  add("blk.0.attn_norm.weight", {16});
  add("blk.0.attn_q.weight", {16, 16});
  add("blk.0.attn_k.weight", {16, 8});
  add("blk.0.attn_v.weight", {16, 8});
  add("blk.0.attn_output.weight", {16, 16});
  add("blk.0.ffn_norm.weight", {16});
  add("blk.0.ffn_gate.weight", {16, 8});
  add("blk.0.ffn_up.weight", {16, 8});
  add("blk.0.ffn_down.weight", {8, 16});
  return model;
}

// A folder that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "spillway-loader-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::filesystem::filesystem_error("mkdtemp", name, std::error_code(errno, std::generic_category()));
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }

  std::string path() const { return path_.string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream(file, std::ios::binary) << bytes;
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

}  // namespace spillway
