// The golden models must be the same files everywhere, or their logits under tests/runtime/data are those of other
// models.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

uint64_t fnv1a(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

TEST(GoldenModels, SameBytesEverywhere) {
  const std::map<std::string, uint64_t> expected{
      {"golden-f16-00001-of-00003.gguf", 0x71937b4fdc6c8220},
      {"golden-f16-00002-of-00003.gguf", 0x4eb3ba7852232087},
      {"golden-f16-00003-of-00003.gguf", 0xfe8c461e74373153},
      {"golden-f32.gguf", 0x2116ccf59488f767},
      {"golden-iq4_xs.gguf", 0x1ebc7bfa5a595fc1},
      {"golden-q4_0.gguf", 0x44de3caaa21c487a},
      {"golden-q4_1.gguf", 0x9ba1ab21e8f75076},
      {"golden-q4_k.gguf", 0xd1555c6439bb82a6},
  };
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "spillway-golden-models";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const TinyModelOptions& golden : golden_models()) write_tiny_model(golden, folder.string());
  std::map<std::string, uint64_t> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    found[entry.path().filename()] = fnv1a(entry.path());
  EXPECT_EQ(found, expected);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace spillway
