// Engine: the one owner of lifetimes. It reserves what the plan says, loads what stays resident, and runs passes;
// destroyed in reverse order after one synchronisation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/backend.h"
#include "memory/disk_queue.h"
#include "memory/kv/cache.h"
#include "runtime/model.h"
#include "runtime/options.h"
#include "runtime/pass.h"
#include "runtime/plan.h"

namespace spillway {

// done and total in units of the stage's own (bytes of weights, tokens of a prompt).
using OnProgress = std::function<void(uint64_t done, uint64_t total)>;

// Who computes: the device, and beside it the CPU where the plan gives it layers.
struct EngineDevices {
  EngineDevices(Device& device_, Device* cpu_ = nullptr) : device(device_), cpu(cpu_) {}
  Device& device;
  Device* cpu;
};

// A token that the embedding has no row for ends the pass that has it, before it begins, in Error(model).
class Engine {
 public:
  // Reserves and loads. Throws Error(fit) when a reservation cannot be had, Error(io) when the drive fails.
  Engine(const Model& model, const Options& options, Plan plan, const EngineDevices& devices,
         const OnProgress& progress);
  ~Engine();
  Engine(const Engine&) = delete;

  // As many sequences at once as Options::sequences said; more, or more tokens in all than the context, end in
  // Error(fit).
  SequenceId open_sequence();
  // A new sequence of the same tokens. Nothing is copied: both read the same pages, wherever they lie, until one writes
  // into the page that is not full; that one page is then copied.
  SequenceId fork_sequence(SequenceId from);
  // Its pages are free once nobody else reads them.
  void close_sequence(SequenceId sequence);
  // Forgets all but the leading `tokens`, which it holds, and returns how many are left: where the page of the cut is
  // shared or has left the device, it goes as a whole; where tokens are let go (KvRetention), everything.
  int truncate_sequence(SequenceId sequence, int tokens);
  int tokens(SequenceId sequence) const;
  // Sees the passes from now on; null: nobody does.
  void set_observer(PassObserver* observer) { observer_ = observer; }
  // Of the prompts that follow, as PassInput's: for measures of speed alone. 0: no window.
  void set_prompt_window(int window) { prompt_window_ = window; }

  // The last so many rows of logits of a call, whole or as `choice` says.
  struct LogitRows {
    LogitRows(int count_, const RowChoice* choice_ = nullptr) : count(count_), choice(choice_) {}
    int count;
    const RowChoice* choice;
  };
  // Rows cost the way to the host: a choice is worth it.
  bool should_choose() const;
  // One row of logits [vocab], or [candidate_floats(k)] of a choice, for the token at `index` of the call; valid during
  // the call.
  using OnRow = std::function<void(int index, std::span<const float> logits)>;
  // Runs `tokens` through the model in chunks; on_row gets the logits after the last `rows` of them.
  // decode_follows: the first weights of the next step are fetched while the last chunk ends. Where tokens are let go,
  // what follows on others is decoded, token by token: there is no reading them all.
  void prefill(SequenceId sequence, std::span<const int32_t> tokens, LogitRows rows, bool decode_follows,
               const OnRow& on_row, const OnProgress& progress = {});
  // One token; returns the logits [vocab] of the next, or what is chosen from them, valid until the next call. another:
  // a further step is expected.
  std::span<const float> decode(SequenceId sequence, int32_t token, bool another, const RowChoice* choice = nullptr);
  // One pass over tokens of several sequences that all differ: of each a decode step, or a chunk of its prompt. Up to
  // Options::batch parts, and in all so many tokens beside a chunk. any_kernel: as PassInput's.
  struct Step {
    std::span<const PassPart> parts;
    bool any_kernel = false;
    NextPass next;
  };
  // The logits [vocab] after a token: of which part, and the token's index in it.
  struct PartRow {
    size_t part;
    int index;
    std::span<const float> logits;
  };
  // Gets rows that are there together, of each part the last `logit_rows` in order; valid during the call.
  using OnPartRows = std::function<void(std::span<const PartRow> rows)>;
  void step(const Step& step, const OnPartRows& on_rows);
  // Whether a decode step over `tokens` positions, its own among them, chooses among its KV: such steps share passes
  // with one another alone, at most so many.
  bool decodes_apart(int tokens) const;
  int most_apart() const;
  // Whether tokens are let go (KvRetention): then no sequence can be cut back to what another one begins with.
  bool lets_go() const;
  // Whether tokens that were decoded give the same when they are computed again as a prompt; any_kernel (as Step's):
  // but for rounding. Not where decode steps read other KV than chunks do: chosen, or packed.
  bool recomputes(bool any_kernel) const;
  // Beginnings that sequences share in multiples of so many tokens leave every bit as it is without: of a prompt that
  // is packed as it is computed, or whose kernels follow from the rows at once, whole chunks. 0: none do.
  int identical_prefix() const;
  // Newest full pages of a sequence that are not packed yet, and that it packs apart from others that share them; 0:
  // none ever are.
  int recent_pages() const;
  // The whole of the last row of logits, of which something was chosen; valid until the next call.
  std::span<const float> last_logits();

  const Plan& plan() const { return plan_; }
  const Traffic& traffic() const { return traffic_; }
  // How long the device stood still in passes, by what had not arrived (arrival_of); the layers that the CPU computes
  // before it are awaited as activations. Null where the device does not tell.
  const WaitClock* waits() const;
  // Bytes in use at most so far, of the reservations.
  uint64_t peak(Tier tier) const;
  // Bytes of KV pages in use now, by all sequences.
  uint64_t kv_bytes(Tier tier) const;
  // Of the pages that one sequence still has, whatever tier they are in and whoever shares them.
  uint64_t kv_kept(SequenceId sequence) const;
  // One line on how the disk is read, and why not better; empty when it is not used.
  std::string disk_report() const;
  DiskStats disk_stats() const;
  // How many experts decode steps (or prompts) have asked for, and where they were; of all units together.
  ExpertCounts expert_counts(bool prompt) const;
  // What decode steps have chosen of the KV, and where it was; of all units together.
  ChosenCounts chosen_counts() const;
  // Whether decode steps read and answer by everything from now on, what they would have chosen being looked at alone;
  // of an engine that was planned with KvSelection::only_check, which is how it begins.
  void set_only_check(bool on);
  // Where that was checked (KvSelection::check_every, only_check).
  MissedMass missed_mass() const;

 private:
  struct Parts;
  void check_tokens(const PassInput& input) const;
  void run(const PassInput& input, const Pass::OnLogits& on_logits);
  View on_host(View logits);
  void step_through(SequenceId sequence, std::span<const int32_t> tokens, LogitRows rows, bool decode_follows,
                    const OnRow& on_row, const OnProgress& progress);
  void end_step();
  void check_disk();

  Plan plan_;
  Traffic traffic_;
  PassObserver* observer_ = nullptr;
  int prompt_window_ = 0;
  std::unique_ptr<Parts> parts_;
};

}  // namespace spillway
