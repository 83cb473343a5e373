#include "conformance.hpp"

#include <algorithm>
#include <utility>

namespace dmaflow::testing {
namespace {

/// How long an idle object is watched for unnecessary wake-ups.
constexpr auto quiet_time = std::chrono::milliseconds(300);

class SourceRun {
 public:
  SourceRun(Source& source, SourceCheck options)
      : source_(source),
        options_(std::move(options)),
        check_(source.name()),
        waiter_(check_, source, options_.provoke) {}

  Findings run() && {
    check_stopped();
    if (begin()) {
      take(options_.frames, false);
      hold_all();
      give_back();
      take(options_.frames, false);
      keep_beyond_stop();
      if (begin()) take(1, false);  // it can be started again
    }
    end();
    return std::move(check_).take();
  }

 private:
  void check_stopped() {
    check_.that(source_.holds() == nullptr, "holds() is not null while it is stopped");
    const auto taken = source_.take();
    if (check_.succeeded(taken, "take() while it is stopped")) {
      check_.that(!*taken, "take() returns a frame while it is stopped");
    }
    check_.succeeded(source_.dispatch(0), "dispatch(0) while it is stopped");
    check_.succeeded(source_.stop(), "stop() while it is stopped");
  }

  bool begin() {
    const auto offers = source_.offers(options_.request);
    if (!check_.succeeded(offers, "offers()")) return false;
    if (!check_.that(!offers->empty(), "offers() returns no stream and no error")) return false;
    const StreamConfig& offer = offers->front();
    if (!check_.succeeded(source_.set_output(offer), "set_output() of what it offered")) return false;
    const Layout& got = source_.output().layout;
    check_.that(got.size == offer.layout.size && got.format == offer.layout.format,
                "output() has another size or format than was set");
    Allocator* allocator = options_.allocator != nullptr ? options_.allocator : source_.output_allocator();
    if (!check_.that(allocator != nullptr, "it has no allocator, and the check was given none")) return false;
    auto made =
        make_buffers(*allocator, source_.output(), source_.output_usage(), source_.min_buffers() + spare_buffers);
    if (!check_.succeeded(made, "the allocation of buffers")) return false;
    buffers_ = std::move(*made);
    if (buffers_.front().layout() != source_.output().layout) {
      StreamConfig follow = source_.output();
      follow.layout = buffers_.front().layout();
      if (!check_.succeeded(source_.set_output(follow), "set_output() with the strides of the buffers")) return false;
    }
    if (!check_.succeeded(source_.try_output(buffers_.front()), "try_output()")) return false;
    if (!check_.succeeded(source_.start(buffers_), "start()")) return false;
    HoldSet* holds = source_.holds();
    if (!check_.that(holds != nullptr, "holds() is null though it is started")) return false;
    check_.that(holds->buffers().size() == buffers_.size(), "holds() has another number of buffers than start() got");
    any_ = false;
    return true;
  }

  /// Waits for frames, which are released or held.
  void take(std::uint32_t wanted, bool hold) {
    std::uint32_t came = 0;
    auto end = Deadline::after(options_.patience);
    while (!check_.is_hopeless()) {
      if (const auto taken = take_until_empty(hold); taken > 0) {
        came += taken;
        end = Deadline::after(options_.patience);
      }
      if (came >= wanted) return;
      if (waiter_.turn(end)) continue;
      check_.that(source_.is_waiting(),
                  "gave " + std::to_string(came) + " frames of " + std::to_string(wanted) + " and then none within " +
                      std::to_string(std::chrono::duration<double>(options_.patience).count()) + " s");
      return;
    }
  }

  std::uint32_t take_until_empty(bool hold) {
    std::uint32_t count = 0;
    while (count < HoldSet::max_buffers) {
      const bool may_have_frame = source_.may_have_frame();
      auto taken = source_.take();
      if (!check_.succeeded(taken, "take()") || !*taken) break;
      check_.that(may_have_frame, "take() returns a frame after may_have_frame() returned false");
      waiter_.note_news();
      ++count;
      look_at(*taken);
      if (hold) held_.push_back(std::move(*taken));
    }
    return count;
  }

  void look_at(const Frame& frame) {
    check_.that(frame.index() < buffers_.size(), "a frame's index is beyond its buffers");
    check_.that(std::ranges::find(buffers_, frame.buffer()) != buffers_.end(),
                "a frame is in a buffer that start() did not get");
    check_.that(std::ranges::none_of(held_, [&](const Frame& held) { return held.buffer() == frame.buffer(); }),
                "a buffer that is held was written again");
    const FrameInfo& info = frame.info();
    check_.that(!any_ || info.sequence >= last_, "sequence numbers fall");
    any_ = true;
    last_ = info.sequence;
    if (info.clock != FrameInfo::Clock::monotonic) return;
    check_.that(info.timestamp <= Deadline::Clock::now().time_since_epoch(), "a time stamp lies in the future");
  }

  /// Takes frames until it has no buffer left to fill, and checks that it is quiet then.
  void hold_all() {
    auto quiet = Deadline::after(quiet_time);
    do {
      if (take_until_empty(true) > 0) quiet = Deadline::after(quiet_time);
    } while (held_.size() <= buffers_.size() && waiter_.turn(quiet));
    check_.that(source_.holds() == nullptr || source_.holds()->lent() == held_.size(),
                "holds()->lent() is not the number of frames that are held");
  }

  void give_back() {
    held_.clear();
    check_.succeeded(source_.dispatch(0), "dispatch(0)");
    waiter_.note_news();
  }

  void keep_beyond_stop() {
    take(1, true);
    check_.succeeded(source_.stop(), "stop()");
    check_.succeeded(source_.stop(), "stop() twice");
    check_.that(source_.holds() == nullptr, "holds() is not null after stop()");
    for (const Frame& frame : held_) {
      check_.that(static_cast<bool>(frame.buffer()), "a frame lost its buffer when the source stopped");
    }
    held_.clear();
    buffers_.clear();
  }

  void end() {
    held_.clear();
    check_.succeeded(source_.stop(), "stop()");
    buffers_.clear();
  }

  Source& source_;
  SourceCheck options_;
  Check check_;
  Waiter waiter_;
  std::vector<Buffer> buffers_;
  std::vector<Frame> held_;
  std::uint64_t last_ = 0;
  bool any_ = false;
};

}  // namespace

Findings check_source(Source& source, const SourceCheck& check) { return SourceRun(source, check).run(); }

}  // namespace dmaflow::testing
