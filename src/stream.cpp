#include "stream.hpp"

#include "frame_path.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <utility>

namespace dmaflow::detail {
namespace {

/// Who refused a buffer, and why.
struct Refusal {
  std::string who;
  Error error;
};

/// Allocates the plan's buffers; every consumer imports each.
std::expected<std::vector<Buffer>, Refusal> allocate_all(const Plan& plan, const std::vector<Consumer*>& consumers) {
  auto buffers = plan.allocator->allocate(plan.request());
  if (!buffers) return std::unexpected(Refusal{std::string(plan.allocator->name()), buffers.error()});
  for (const Buffer& buffer : *buffers) {
    for (Consumer* consumer : consumers) {
      if (auto imported = consumer->import(buffer); !imported) {
        return std::unexpected(Refusal{std::string(consumer->name()), imported.error()});
      }
    }
  }
  return std::move(*buffers);
}

bool has_allocator(const Link& link, std::string_view name) {
  const auto is_named = [name](Allocator* one) { return one != nullptr && one->name() == name; };
  return is_named(link.producer->output_allocator()) || std::ranges::any_of(link.allocators, is_named) ||
         std::ranges::any_of(link.consumers, [&](Consumer* one) { return is_named(one->input_allocator()); });
}

}  // namespace

// A link reaches from a producer to the first participants that use its buffers, and beyond stages that pass frames
// through, which use them as well.
std::vector<Stream::Part> Stream::parts() const {
  std::vector<Part> parts(1);
  parts.front().link.producer = source_;
  for (std::size_t b = 0; b < branches_.size(); ++b) {
    const Branch& branch = branches_[b];
    if (branch.state() == Branch::State::failed) continue;
    std::size_t current = 0;
    parts[current].link.queued += branch.max_queued();
    for (std::size_t i = 0; i < branch.stages().size(); ++i) {
      Stage* stage = branch.stages()[i];
      parts[current].link.consumers.push_back(stage);
      if (stage->passes_through()) continue;
      current = parts.size();
      parts.push_back({.link = {.producer = stage, .consumers = {}, .allocators = {}, .request = {}, .queued = 0},
                       .branch = b,
                       .place = i + 1});
    }
    parts[current].link.consumers.push_back(&branch.sink());
  }
  return parts;
}

// Negotiation tried one buffer of an allocator. If the full number does not work, the next allocator is tried.
std::expected<Stream::Made, Refused> Stream::make(Link link) {
  std::vector<Candidate> failed;
  while (true) {
    auto plan = negotiate(link);
    if (!plan) {
      auto& candidates = plan.error().candidates;
      candidates.insert(candidates.begin(), failed.begin(), failed.end());
      return std::unexpected(failed.empty() ? std::move(plan.error()) : Refused{*failed.back().refusal, candidates});
    }
    auto buffers = allocate_all(*plan, link.consumers);
    if (buffers) {
      plan->candidates.insert(plan->candidates.begin(), failed.begin(), failed.end());
      return Made{.plan = std::move(*plan),
                  .buffers = std::move(*buffers),
                  .consumers = std::move(link.consumers),
                  .producer = link.producer};
    }
    failed.push_back({.config = plan->config,
                      .allocator = std::string(plan->allocator->name()),
                      .refused_by = buffers.error().who,
                      .refusal = buffers.error().error,
                      .step = Candidate::Step::all_buffers});
    link.excluded.push_back(plan->allocator);
  }
}

/// The consumers of a branch that use the source's own buffers.
std::vector<Consumer*> Stream::consumers_in(const Branch& branch) const {
  std::vector<Consumer*> consumers;
  for (Stage* stage : branch.stages()) {
    consumers.push_back(stage);
    if (!stage->passes_through()) return consumers;
  }
  consumers.push_back(&branch.sink());
  return consumers;
}

bool Stream::is_copy(const void* participant) const noexcept {
  return std::ranges::any_of(copies_, [&](const CopyStage& copy) {
    return participant == static_cast<const Producer*>(&copy) || participant == static_cast<const Consumer*>(&copy);
  });
}

/// What is wanted of this link.
StreamRequest Stream::wishes_for(const Part& part, const StreamRequest& request) const {
  StreamRequest wishes = request;
  if (part.branch) {
    const Branch& branch = branches_[*part.branch];
    const auto after = branch.stages().subspan(part.place);
    const bool is_last = std::ranges::none_of(after, [this](const Stage* stage) {
      return !stage->passes_through() && !is_copy(static_cast<const Producer*>(stage));
    });
    if (branch.request()) wishes = *branch.request();
    if (!branch.request() || !is_last) {  // they are about the source's images, or those that reach the sink
      wishes.size.reset();
      wishes.formats.clear();
    }
    wishes.interval.reset();
    wishes.spare_buffers = 0;
  }
  if (!has_allocator(part.link, wishes.allocator)) wishes.allocator.clear();
  return wishes;
}

bool Stream::may_copy(const Branch& branch, const StreamRequest& request) noexcept {
  return branch.request() ? branch.request()->allow_copy : request.allow_copy;
}

// Inserts a copy between a producer and the consumers that cannot share its buffers, if a copy is allowed there. On the
// source's link these are the branches that cannot share them even alone; if each could alone but not all together, all
// that allow it but one. False if a copy would not help.
bool Stream::insert_copies(const Part& part, const StreamRequest& request) {
  if (is_copy(part.link.producer)) return false;
  if (part.branch) {
    if (!may_copy(branches_[*part.branch], request)) return false;
    branches_[*part.branch].insert(part.place, copies_.emplace_back());
    return true;
  }
  std::vector<Branch*> unable;
  std::vector<Branch*> able;
  for (Branch& branch : branches_) {
    if (branch.state() == Branch::State::failed) continue;
    Link alone = part.link;
    alone.consumers = consumers_in(branch);
    alone.queued = branch.max_queued();
    (negotiate(alone) ? able : unable).push_back(&branch);
  }
  const auto may = [&](const Branch* branch) { return may_copy(*branch, request); };
  if (!std::ranges::all_of(unable, may)) return false;
  if (unable.empty()) {
    const bool all_may = std::ranges::all_of(able, may);
    std::ranges::copy_if(std::span(able).subspan(all_may && !able.empty() ? 1 : 0), std::back_inserter(unable), may);
  }
  for (Branch* branch : unable) branch->insert(0, copies_.emplace_back());
  return !unable.empty();
}

void Stream::forget() noexcept {
  made_.clear();
  for (const CopyStage& copy : copies_) {
    for (Branch& branch : branches_) branch.remove(copy);
  }
  copies_.clear();
}

/// An allocator that was requested by name must be available on at least one link.
Result<void> Stream::check_names(const StreamRequest& request, const std::vector<Allocator*>& allocators) const {
  auto all = parts();
  for (Part& part : all) part.link.allocators = allocators;
  const auto has = [](const Part& part, const std::string& name) { return has_allocator(part.link, name); };
  if (!request.allocator.empty() &&
      std::ranges::none_of(all, [&](const Part& part) { return has(part, request.allocator); })) {
    return std::unexpected(Error::os(EINVAL, "Pipeline::prepare", source_->name())
                               .detail("no allocator named %s", request.allocator.c_str()));
  }
  for (std::size_t i = 0; i < branches_.size(); ++i) {
    const auto& wanted = branches_[i].request();
    if (branches_[i].state() == Branch::State::failed || !wanted || wanted->allocator.empty()) continue;
    bool has_links = false;  // of its own; if not, only a copy would make one
    bool is_known = false;
    for (const Part& part : all) {
      if (part.branch.value_or(branches_.size()) != i) continue;
      has_links = true;
      is_known |= has(part, wanted->allocator);
    }
    if (is_known || !has_links) continue;
    return std::unexpected(
        Error::os(EINVAL, "Pipeline::prepare", source_->name())
            .detail("no allocator named %s in branch %s", wanted->allocator.c_str(), branches_[i].name().c_str()));
  }
  return {};
}

/// Negotiates a link and makes its buffers, with copies if nothing else works and the user allows them.
std::expected<void, Refused> Stream::make_part(std::size_t index, const StreamRequest& request,
                                               const std::vector<Allocator*>& allocators) {
  const auto part_now = [&] {
    Part part = parts()[index];
    part.link.allocators = allocators;
    part.link.request = wishes_for(part, request);
    return part;
  };
  Part part = part_now();
  auto made = make(part.link);
  std::vector<Candidate> before_copies;
  if (!made && !made.error().candidates.empty() && allows_copies(request) && insert_copies(part, request)) {
    before_copies = std::move(made.error().candidates);
    part = part_now();
    made = make(part.link);
  }
  auto& candidates = made ? made->plan.candidates : made.error().candidates;
  candidates.insert(candidates.begin(), before_copies.begin(), before_copies.end());
  if (!made) return std::unexpected(std::move(made.error()));
  made->plan.copies = std::ranges::any_of(made->consumers, [this](const Consumer* one) { return is_copy(one); });
  made_.push_back(std::move(*made));
  return {};
}

std::expected<void, Refused> Stream::prepare(const StreamRequest& request, const std::vector<Allocator*>& allocators) {
  forget();
  if (auto known = check_names(request, allocators); !known) return std::unexpected(Refused{known.error(), {}});
  for (std::size_t i = 0; i < parts().size(); ++i) {  // a copy adds a part
    if (auto made = make_part(i, request, allocators); !made) {
      forget();
      return std::unexpected(std::move(made.error()));
    }
  }
  return {};
}

void Stream::retry_failed() noexcept {
  for (Branch& branch : branches_) {
    if (branch.state() == Branch::State::failed) branch.set_state(Branch::State::flowing);
  }
}

std::vector<Plan> Stream::plans() const {
  std::vector<Plan> plans;
  for (const Made& made : made_) plans.push_back(made.plan);
  return plans;
}

std::span<const Buffer> Stream::inputs_of(const Consumer& consumer) const noexcept {
  const auto found = std::ranges::find_if(
      made_, [&](const Made& made) { return std::ranges::find(made.consumers, &consumer) != made.consumers.end(); });
  return found == made_.end() ? std::span<const Buffer>() : found->buffers;
}

std::vector<Buffer> Stream::outputs_of(const Producer& producer) const {
  const auto found = std::ranges::find(made_, &producer, &Made::producer);
  return found == made_.end() ? std::vector<Buffer>() : found->buffers;
}

Result<void> Stream::start() {
  is_running_ = true;
  ++starts_;
  has_more_ = false;
  ended_ = false;
  copied_before_ = copied_;
  for (Branch& branch : branches_) branch.begin();
  any_frame_ = false;
  note_traits();
  for (const Branch& branch : branches_) {
    if (auto started = start_branch(branch); !started) return started;
  }
  auto started = source_->start(made_.front().buffers);
  buffer_changes_ = source_->holds() != nullptr ? source_->holds()->changes() : 0;
  return started;
}

Result<void> Stream::start_branch(const Branch& branch) const {
  if (branch.state() == Branch::State::failed) return {};
  if (auto started = branch.sink().start(inputs_of(branch.sink())); !started) return started;
  for (Stage* stage : branch.stages()) {
    if (auto started = stage->start(inputs_of(*stage), outputs_of(*stage)); !started) return started;
  }
  return {};
}

/// Updates what depends on the participants.
void Stream::note_traits() noexcept {
  may_be_behind_ = std::ranges::all_of(branches_, [](const Branch& one) { return one.wants_newest(); }) &&
                   std::ranges::any_of(branches_, [](const Branch& one) { return !one.stages().empty(); });
  must_be_woken_ = std::ranges::any_of(made_, [](const Made& made) {
    return std::ranges::any_of(made.consumers, [](const Consumer* one) { return !one->returns_in_calls(); });
  });
}

/// Delivers a branch's frames in flight to its sink, as far as the deadline allows.
void Stream::finish_branch(std::size_t index, Deadline deadline, const Cancel* cancel, StreamStats& stats,
                           Result<void>& result) {
  Branch& branch = branches_[index];
  if (branch.state() == Branch::State::failed) return;
  bool goes_on = true;
  const auto keep = [&](const Result<void>& next) {
    goes_on = goes_on && next.has_value();
    if (result && !next) result = next;
  };
  const auto feed = [&] {  // frames that wait for a recorder are still recorded
    keep(branch.sink().drain(deadline, cancel));
    while (goes_on) {
      const auto fed = branch.advance(stats.branches[index]);
      if (!fed) return keep(std::unexpected(fed.error()));
      if (!*fed) return;
      keep(branch.sink().flush());
      keep(branch.sink().drain(deadline, cancel));
    }
  };
  feed();
  for (Stage* stage : branch.stages()) {
    if (!goes_on) return;
    keep(stage->drain(deadline, cancel));
    if (goes_on) feed();
  }
}

Result<void> Stream::stop(Deadline deadline, const Cancel* cancel, StreamStats& stats, PerSecond& per_second) {
  Result<void> result;
  const auto keep_first = [&result](const Result<void>& next) {
    if (result && !next) result = next;
  };
  // Branches that want every frame come first: a display that hangs must not use up a recorder's time.
  for (const bool wants_newest : {false, true}) {
    for (std::size_t i = 0; is_running_ && i < branches_.size(); ++i) {
      if (branches_[i].wants_newest() == wants_newest) finish_branch(i, deadline, cancel, stats, result);
    }
  }
  collect(stats, per_second);
  count(stats);
  keep_first(source_->stop());
  for (std::size_t i = 0; i < branches_.size(); ++i) keep_first(stop_branch(i, stats));
  if (is_running_) keep_first(source_->dispatch(0));  // it takes back what the sinks have just released
  made_.clear();
  is_running_ = false;
  return result;
}

/// The frame goes to every branch, though some consumer may have refused its buffer.
std::expected<bool, Failed> Stream::add_buffers_and_pass_on(Frame& frame, StreamStats& stats) {
  auto noted = note_buffers();
  auto passed_on = pass_on(frame, stats);
  if (!passed_on || noted) return passed_on;
  return std::unexpected(noted.error());
}

/// Each branch that currently gets frames receives its own hold; the last receives the frame itself.
void Stream::give_to_branches(Frame frame, StreamStats& stats, Result<void>& result) noexcept {
  constexpr auto none = ~std::size_t{0};
  std::size_t last = none;
  for (std::size_t i = 0; i < branches_.size(); ++i) {
    if (branches_[i].state() != Branch::State::flowing || !branches_[i].wants(frame.info())) {
      ++stats.branches[i].skipped;
      continue;
    }
    if (const auto before = std::exchange(last, i); before != none) {
      auto hold = frame.split();
      if (!hold) {
        result = std::unexpected(hold.error());
        ++stats.branches[before].failed;
        continue;
      }
      branches_[before].offer(std::move(*hold), stats.branches[before]);
    }
  }
  if (last != none) branches_[last].offer(std::move(frame), stats.branches[last]);
}

bool Stream::is_late(const FrameInfo& info) const noexcept {
  const Interval interval = source_->output().interval;
  if (info.clock != FrameInfo::Clock::monotonic || interval.denominator == 0) return false;
  const auto age = Deadline::Clock::now().time_since_epoch() - info.timestamp;
  return age > std::chrono::nanoseconds(std::chrono::seconds(2)) * interval.numerator / interval.denominator;
}

}  // namespace dmaflow::detail
