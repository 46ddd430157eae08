// Merge: the outputs of all shards of one input, as one output in its order.
#pragma once

#include <string>
#include <vector>

namespace spillway {

struct MergeReport {
  uint64_t answered = 0, errors = 0;
};

// Writes `output` and its record, whole or not at all: a batch without --shard goes on from it (--retry-failed). Throws
// Error(usage): a part is missing, unfinished, of another job, or given twice, or `output` is there already; Error(io).
MergeReport merge_batches(const std::string& output, const std::vector<std::string>& parts);

}  // namespace spillway
