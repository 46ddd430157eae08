// tokenize MODEL TEXT [IDS]: the ids of a text file under a model's tokenizer (a GGUF, or any file of a Hugging Face
// folder), as 32-bit integers into the file IDS. Says how many, how fast, and whether they decode to the text.
// tests/oracle/tokenizers.py compares them.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "loader/tokenizer.h"

int main(int count, char** arguments) {
  using namespace spillway;
  if (count < 3) {
    std::fprintf(stderr, "usage: tokenize MODEL TEXT [IDS]\n");
    return 2;
  }
  try {
    const std::string path = arguments[1];
    Checkpoint checkpoint;
    if (path.ends_with(".gguf")) {
      checkpoint = open_gguf(path);
    } else {
      checkpoint.files.push_back(File::open_read(path));
    }
    const auto started = std::chrono::steady_clock::now();
    const auto tokenizer = make_tokenizer(checkpoint);
    std::ifstream in(arguments[2], std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    const auto begun = std::chrono::steady_clock::now();
    const std::vector<int32_t> ids = tokenizer->encode(text, true, false);
    const std::chrono::duration<double> load = begun - started, took = std::chrono::steady_clock::now() - begun;
    if (count > 3) {
      std::ofstream out(arguments[3], std::ios::binary);
      out.write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(ids.size() * sizeof(int32_t)));
    }
    std::printf("%zu bytes, %zu ids, load %.3f s, %.2f MB/s, %s\n", text.size(), ids.size(), load.count(),
                static_cast<double>(text.size()) / 1e6 / took.count(),
                tokenizer->decode(ids, true) == text ? "comes back" : "DIFFERS");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
