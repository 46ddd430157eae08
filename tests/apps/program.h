// The built program, run in processes of its own and seen from outside: what it printed, how it ended, what it took.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/support/tiny_model.h"

namespace spillway {

struct Result {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out, err;
  uint64_t peak_bytes = 0;  // largest resident set
  double cpu_seconds = 0;
};

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// With a folder of its own, which goes with it, and a cache that all tests share, so that the machine is measured once.
class Program {
 public:
  Program() : folder_(std::filesystem::path(temporary()) / ("spillway-program-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  Program(const Program&) = delete;
  ~Program() { std::filesystem::remove_all(folder_); }

  const std::filesystem::path& folder() const { return folder_; }
  // $SPILLWAY_TEST_CACHE, where a test wants one of its own.
  static std::string cache() {
    const char* own = std::getenv("SPILLWAY_TEST_CACHE");
    return own != nullptr ? own : temporary() + "/spillway-program-cache";
  }

  // At the latest after so many seconds SIGALRM ends it. It reads `input`; -1: nothing.
  pid_t start(const std::vector<std::string>& arguments, unsigned most_seconds = 120, int input = -1) const {
    const pid_t child = fork();
    if (child != 0) return child;
    setenv("XDG_CACHE_HOME", cache().c_str(), 1);
    alarm(most_seconds);
    dup2(input >= 0 ? input : open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(open((folder_ / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
    dup2(open((folder_ / "err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    std::vector<char*> words{const_cast<char*>(SPILLWAY_PROGRAM)};
    for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
    words.push_back(nullptr);
    execv(SPILLWAY_PROGRAM, words.data());
    _exit(127);
  }

  Result run(const std::vector<std::string>& arguments, unsigned most_seconds = 120) const {
    const pid_t child = start(arguments, most_seconds);
    int status = 0;
    rusage usage{};
    wait4(child, &status, 0, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return {.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            .out = read_file(folder_ / "out"),
            .err = read_file(folder_ / "err"),
            .peak_bytes = 1024ull * static_cast<uint64_t>(usage.ru_maxrss),
            .cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime)};
  }

  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }

 private:
  static std::string temporary() { return std::filesystem::temp_directory_path().string(); }
  std::filesystem::path folder_;
};

// A model of a few kilobytes with a vocabulary, in a folder.
inline TinyModelOptions program_model() {
  return {.layers = 3,
          .hidden = 64,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 32,
          .ffn = 128,
          .vocab = 640,
          .type = DType::q4_0,
          .seed = 9,
          .name = "program"};
}
inline std::string write_program_model(const std::filesystem::path& folder) {
  return write_tiny_model(program_model(), folder.string());
}

}  // namespace spillway

#ifdef SPILLWAY_SANITIZED
#define SKIP_UNDER_SANITIZERS() GTEST_SKIP() << "sanitizers take memory and system calls of their own"
#else
#define SKIP_UNDER_SANITIZERS() static_cast<void>(0)
#endif
