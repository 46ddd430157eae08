// The files that a batch is given: which of them a link stands for, and that nothing it writes is another of them.
#pragma once

#include <string>

namespace spillway {

struct NamedFile {
  std::string flag;  // as the user gave it
  std::string path;
};

// What `path` is in the end where it is a symbolic link, though nothing be there; else `path` as it is. What is written
// beside a file, or renamed over it, goes by this name, so that a link stays one.
std::string followed(const std::string& path);

// Throws Error(usage) where both are one file, by whatever names.
void refuse_same(const NamedFile& read, const NamedFile& written);

// The same for each of what the output `written` is and lies beside it: its record, and its temporary.
void refuse_written(const NamedFile& read, const NamedFile& output);

// Throws Error(usage) where something else than a regular file is there.
void check_output(const std::string& output);

}  // namespace spillway
