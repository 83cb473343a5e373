#include "stream.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

namespace dmaflow {
namespace {

/// The plan's buffers, each imported by everyone.
Result<std::vector<Buffer>> allocate_all(const Plan& plan, const std::vector<Importer*>& consumers) {
  auto buffers = plan.allocator->allocate(plan.request());
  if (!buffers) return buffers;
  for (const Buffer& buffer : *buffers) {
    for (Importer* consumer : consumers) {
      if (auto imported = consumer->import(buffer); !imported) return std::unexpected(imported.error());
    }
  }
  return buffers;
}

}  // namespace

// A link reaches from a producer to the first participants that use its buffers: past stages that give on what they
// took, which use them as well.
std::vector<Link> Stream::links() const {
  std::vector<Link> links(1);
  links.front().producer = source_;
  for (const Branch& branch : branches_) {
    std::size_t current = 0;
    links[current].queued += branch.max_queued();
    for (Stage* stage : branch.stages()) {
      links[current].consumers.push_back(stage);
      if (stage->passes_through()) continue;
      current = links.size();
      links.push_back({.producer = stage, .consumers = {}, .allocators = {}, .request = {}, .queued = 0});
    }
    links[current].consumers.push_back(&branch.sink());
  }
  return links;
}

// One buffer of an allocator worked; where as many as are needed do not, the next one is asked.
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
                      .refused_by = std::string(plan->allocator->name()),
                      .refusal = buffers.error()});
    link.excluded.push_back(plan->allocator);
  }
}

// Finds the branches whose first consumer cannot share with the source and puts a copy in front of it; where each could
// alone but not all together, in front of all but the first. False where there was nothing to do.
bool Stream::insert_copies(const StreamRequest& request, const std::vector<Allocator*>& allocators) {
  std::vector<Branch*> unable;
  for (Branch& branch : branches_) {
    Importer* consumer = branch.stages().empty() ? static_cast<Importer*>(&branch.sink()) : branch.stages().front();
    if (!negotiate({.producer = source_, .consumers = {consumer}, .allocators = allocators, .request = request})) {
      unable.push_back(&branch);
    }
  }
  if (unable.empty()) {
    for (std::size_t i = 1; i < branches_.size(); ++i) unable.push_back(&branches_[i]);
  }
  for (Branch* branch : unable) branch->prepend(copies_.emplace_back());
  return !unable.empty();
}

void Stream::forget() noexcept {
  made_.clear();
  for (const CopyStage& copy : copies_) {
    for (Branch& branch : branches_) branch.remove(copy);
  }
  copies_.clear();
}

std::expected<std::vector<Plan>, Refused> Stream::prepare(const StreamRequest& request,
                                                          const std::vector<Allocator*>& allocators) {
  forget();
  std::vector<Plan> plans;
  std::vector<Candidate> before_copies;
  for (std::size_t i = 0; i < links().size(); ++i) {
    Link link = links()[i];
    link.allocators = allocators;
    if (i == 0) link.request = request;
    auto made = make(link);
    if (!made && i == 0 && request.allow_copy && copies_.empty() && !made.error().candidates.empty() &&
        insert_copies(request, allocators)) {
      before_copies = std::move(made.error().candidates);
      link = links()[0];
      link.allocators = allocators;
      link.request = request;
      made = make(link);
    }
    if (!made) {
      forget();
      auto& candidates = made.error().candidates;
      candidates.insert(candidates.begin(), before_copies.begin(), before_copies.end());
      return std::unexpected(std::move(made.error()));
    }
    if (i == 0) {
      made->plan.copies = !copies_.empty();
      auto& candidates = made->plan.candidates;
      candidates.insert(candidates.begin(), before_copies.begin(), before_copies.end());
    }
    plans.push_back(made->plan);
    made_.push_back(std::move(*made));
  }
  return plans;
}

std::span<const Buffer> Stream::inputs_of(const Importer& consumer) const noexcept {
  const auto found = std::ranges::find_if(
      made_, [&](const Made& made) { return std::ranges::find(made.consumers, &consumer) != made.consumers.end(); });
  return found == made_.end() ? std::span<const Buffer>() : found->buffers;
}

std::vector<Buffer> Stream::outputs_of(const Producer& producer) const {
  const auto found = std::ranges::find(made_, &producer, &Made::producer);
  return found == made_.end() ? std::vector<Buffer>() : found->buffers;
}

Result<void> Stream::start() {
  ended_ = false;
  any_frame_ = false;
  may_be_behind_ = std::ranges::all_of(branches_, [](const Branch& one) { return one.wants_newest(); }) &&
                   std::ranges::any_of(branches_, [](const Branch& one) { return !one.stages().empty(); });
  must_be_woken_ = std::ranges::any_of(made_, [](const Made& made) {
    return std::ranges::any_of(made.consumers, [](const Importer* one) { return !one->returns_in_calls(); });
  });
  for (const Branch& branch : branches_) {
    if (auto started = branch.sink().start(inputs_of(branch.sink())); !started) return started;
    for (Stage* stage : branch.stages()) {
      if (auto started = stage->start(inputs_of(*stage), outputs_of(*stage)); !started) return started;
    }
  }
  return source_->start(made_.front().buffers);
}

Result<void> Stream::stop(Deadline deadline, StreamStats& stats, PerSecond& per_second) {
  Result<void> result;
  const auto keep_first = [&result](const Result<void>& next) {
    if (result && !next) result = next;
  };
  for (std::size_t i = 0; i < branches_.size(); ++i) {
    Branch& branch = branches_[i];
    const auto finish = [&] {  // what waits for a recorder is still recorded
      keep_first(branch.sink().drain(deadline));
      while (result) {
        const auto fed = branch.advance(stats.branches[i]);
        if (!fed || !*fed) break;
        keep_first(branch.sink().flush());
        keep_first(branch.sink().drain(deadline));
      }
    };
    finish();
    for (Stage* stage : branch.stages()) {
      keep_first(stage->drain(deadline));
      finish();
    }
    branch.clear(stats.branches[i]);
  }
  collect(stats, per_second);
  keep_first(source_->stop());
  for (const Branch& branch : branches_) {
    for (Stage* stage : branch.stages()) keep_first(stage->stop());
    keep_first(branch.sink().stop());
  }
  made_.clear();
  return result;
}

Result<bool> Stream::take(StreamStats& stats) {
  auto taken = source_->take();
  if (!taken) {
    if (taken.error().code() != EPIPE) return std::unexpected(taken.error());
    ended_ = true;
    return false;
  }
  Frame frame = std::move(*taken);
  if (!frame) return false;

  const FrameInfo& info = frame.info();
  ++stats.captured;
  if (info.is_erroneous) ++stats.erroneous;
  if (any_frame_ && info.sequence > next_sequence_) stats.lost += info.sequence - next_sequence_;
  next_sequence_ = info.sequence + 1;
  any_frame_ = true;
  if (info.is_last) ended_ = true;
  behind_ = may_be_behind_ && !ended_ && is_late(info) ? behind_ + 1 : 0;

  for (std::size_t i = 0; i + 1 < branches_.size(); ++i) {
    auto hold = frame.split();
    if (!hold) return std::unexpected(hold.error());
    branches_[i].offer(std::move(*hold), stats.branches[i]);
  }
  branches_.back().offer(std::move(frame), stats.branches.back());
  return true;
}

bool Stream::is_late(const FrameInfo& info) const noexcept {
  const Interval interval = source_->output().interval;
  if (info.clock != FrameInfo::Clock::monotonic || interval.denominator == 0) return false;
  const auto age = Deadline::Clock::now().time_since_epoch() - info.timestamp;
  return age > std::chrono::nanoseconds(std::chrono::seconds(2)) * interval.numerator / interval.denominator;
}

Result<void> Stream::advance(StreamStats& stats) {
  bool moved = true;
  while (moved) {
    moved = false;
    for (std::size_t i = 0; i < branches_.size(); ++i) {
      const auto fed = branches_[i].advance(stats.branches[i]);
      if (!fed) return std::unexpected(fed.error());
      moved |= *fed;
    }
    if (!moved) break;
    for (const Branch& branch : branches_) {
      if (auto flushed = branch.sink().flush(); !flushed) return flushed;
    }
  }
  return {};
}

void Stream::collect(StreamStats& stats, PerSecond& per_second) noexcept {
  for (std::size_t i = 0; i < branches_.size(); ++i) {
    BranchStats& branch = stats.branches[i];
    for (std::size_t count = reports_.size(); count == reports_.size();) {
      count = branches_[i].sink().take_presented(reports_);
      for (const Presentation& report : std::span(reports_).first(count)) {
        ++branch.presented;
        branch.latency.add(report.presented - report.captured);
        if (i == 0) per_second.add(report.presented);
      }
    }
  }
  stats.bytes_copied = 0;
  for (const Branch& branch : branches_) {
    for (const Stage* stage : branch.stages()) stats.bytes_copied += stage->bytes_copied();
  }
}

void PerSecond::add(std::chrono::nanoseconds presented) const noexcept {
  if (presented < first) return;
  const auto second =
      static_cast<std::size_t>(std::chrono::duration_cast<std::chrono::seconds>(presented - first).count());
  if (second >= counts->capacity()) return;
  if (second >= counts->size()) counts->resize(second + 1);  // within the capacity: no allocation
  ++(*counts)[second];
}

bool Stream::take_changed() noexcept {
  bool changed = source_->take_changed();
  for (const Branch& branch : branches_) {
    changed |= branch.sink().take_changed();
    for (Stage* stage : branch.stages()) changed |= stage->take_changed();
  }
  return changed;
}

}  // namespace dmaflow
