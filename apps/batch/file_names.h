// The files that a batch is given: that nothing it writes is another of them.
#pragma once

#include <string>

namespace spillway {

struct NamedFile {
  std::string flag;  // as the user gave it
  std::string path;
};

// Throws Error(usage) where both are one file, by whatever names.
void refuse_same(const NamedFile& read, const NamedFile& written);

// The same, and where it is the record that lies beside the output.
void refuse_written(const NamedFile& read, const NamedFile& output);

// Throws Error(usage) where something else than a regular file is there.
void check_output(const std::string& output);

}  // namespace spillway
