#include "conformance.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace dmaflow::testing {
namespace {

constexpr auto quiet_time = std::chrono::milliseconds(100);

class SinkRun {
 public:
  SinkRun(Sink& sink, SinkCheck options)
      : sink_(sink), options_(std::move(options)), check_(sink.name()), waiter_(check_, sink, options_.provoke) {}

  Findings run() && {
    check_.succeeded(sink_.stop(), "stop() while it is stopped");
    for (const bool again : {false, true}) {
      if (!begin()) break;
      for (std::uint32_t i = 0; i < (again ? 1 : options_.frames) && !check_.is_hopeless(); ++i) {
        if (!give_one()) break;
      }
      end();
    }
    check_.succeeded(sink_.stop(), "stop()");
    holds_.reset();
    buffers_.clear();
    return std::move(check_).take();
  }

 private:
  bool begin() {
    StreamConfig config = options_.config;
    if (!check_.succeeded(sink_.check_input(config), "check_input()")) return false;
    if (!check_.succeeded(sink_.set_input(config), "set_input() of what check_input() accepted")) return false;
    Allocator* allocator = options_.allocator != nullptr ? options_.allocator : sink_.input_allocator();
    if (!check_.that(allocator != nullptr, "it has no allocator, and the check was given none")) return false;
    const Needs needs = sink_.needs();
    config.constraints = merge(config.constraints, needs.constraints);
    auto made = make_buffers(*allocator, config, needs.usage, sink_.max_held() + spare_buffers);
    if (!check_.succeeded(made, "the allocation of buffers")) return false;
    buffers_ = std::move(*made);
    if (buffers_.front().layout() != options_.config.layout) {
      config.layout = buffers_.front().layout();
      if (!check_.succeeded(sink_.set_input(config), "set_input() with the strides of the buffers")) return false;
    }
    for (const char* call : {"import()", "import() of the same buffer again"}) {
      if (!check_.succeeded(sink_.import(buffers_.front()), call)) return false;
    }
    if (!check_.succeeded(sink_.start(buffers_), "start()")) return false;
    auto holds = HoldSet::create(buffers_);
    if (!check_.succeeded(holds, "HoldSet::create()")) return false;
    holds_ = std::move(*holds);
    free_.clear();
    for (std::uint32_t i = 0; i < buffers_.size(); ++i) free_.push_back(i);
    check_.that(sink_.ready(), "is not ready though it just started");
    dropped_ = sink_.dropped();
    return true;
  }

  /// Gives it a frame, and waits until it can take another.
  bool give_one() {
    const auto end = Deadline::after(options_.patience);
    while (free_.empty() && turn(end)) {
    }
    if (!check_.that(!free_.empty(), "kept every buffer")) return false;
    FrameInfo info;
    info.sequence = next_++;
    info.timestamp = Deadline::Clock::now().time_since_epoch();
    info.clock = FrameInfo::Clock::monotonic;
    info.visible = {0, 0, options_.config.layout.size.width, options_.config.layout.size.height};
    const auto index = free_.front();
    free_.erase(free_.begin());
    {
      auto frame = holds_->lend(index, info);
      if (!check_.succeeded(frame, "HoldSet::lend()")) return false;
      const auto displaced = sink_.accept(std::move(*frame));
      if (!check_.succeeded(displaced, "accept() while it is ready")) return false;
      check_.that(!*displaced, "displaced a frame though it was ready");
    }
    if (!check_.succeeded(sink_.flush(), "flush()")) return false;
    waiter_.note_news();
    look();
    while (!sink_.ready() && turn(end)) {
    }
    return check_.that(sink_.ready() || sink_.is_waiting(), "had no room again within the time given");
  }

  bool turn(Deadline deadline) {
    const auto lent = holds_->lent();
    const bool came = waiter_.turn(deadline);
    if (!came) return false;
    if (!check_.succeeded(sink_.flush(), "flush()")) return false;
    look();
    if (holds_->lent() != lent) waiter_.note_news();
    return true;
  }

  /// Checks what it holds and reports.
  void look() {
    while (const auto back = holds_->take_returned()) free_.push_back(back->index);
    check_.that(holds_->lent() <= sink_.max_held(), "holds " + std::to_string(holds_->lent()) +
                                                        " frames; max_held() says " + std::to_string(sink_.max_held()));
    std::array<Presentation, 4> reports{};
    for (std::size_t count = reports.size(); count == reports.size();) {
      count = sink_.take_presented(reports);
      if (!check_.that(count <= reports.size(), "take_presented() returns more than was asked for")) return;
      for (std::size_t i = 0; i < count; ++i) {
        check_.that(reports[i].sequence < next_, "reports a frame that it never got");
        check_.that(!reported_any_ || reports[i].sequence > reported_, "reports a frame twice or out of order");
        reported_any_ = true;
        reported_ = reports[i].sequence;
        waiter_.note_news();
      }
    }
    const auto dropped = sink_.dropped();
    check_.that(dropped >= dropped_, "dropped() fell");
    dropped_ = dropped;
  }

  void end() {
    if (options_.provoke) options_.provoke();
    check_.succeeded(sink_.drain(Deadline::after(options_.patience), nullptr), "drain()");
    look();
    check_.that(sink_.ready() || sink_.is_waiting(), "has no room though drain() succeeded");
    waiter_.note_news();
    const auto quiet_end = Deadline::after(quiet_time);
    while (quiet_end.remaining() > Deadline::Clock::duration::zero() && turn(quiet_end)) {
    }
    check_.succeeded(sink_.stop(), "stop()");
    check_.succeeded(sink_.stop(), "stop() twice");
    check_.that(holds_->lent() == 0, "kept " + std::to_string(holds_->lent()) + " frames beyond stop()");
    holds_.reset();
    buffers_.clear();
  }

  Sink& sink_;
  SinkCheck options_;
  Check check_;
  Waiter waiter_;
  std::vector<Buffer> buffers_;
  std::shared_ptr<HoldSet> holds_;
  std::vector<std::uint32_t> free_;
  std::uint64_t next_ = 0;
  std::uint64_t reported_ = 0;
  std::uint64_t dropped_ = 0;
  bool reported_any_ = false;
};

}  // namespace

Findings check_sink(Sink& sink, const SinkCheck& check) { return SinkRun(sink, check).run(); }

}  // namespace dmaflow::testing
