// Frame: a hold on a buffer while its contents are in use.
//
// A source owns its buffers for the whole stream and lends them, one Frame per captured image. The holder of the Frame
// may use the buffer; when the last holder releases it, from any thread, the buffer returns to the source and is
// written again. Nothing else ends a hold, and nothing else lets the camera write, so a buffer on the screen is never
// queued to the camera.
//
//     source: holds.lend(i) --> Frame --> sink ... ~Frame --> holds.take_returned() --> source writes again
//
#pragma once

#include <dmaflow/buffer.hpp>
#include <dmaflow/clock.hpp>
#include <dmaflow/fence.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace dmaflow {

/// A value that the program attaches to a frame: a pointer, a detection, a number. Stages that make one image from
/// another keep it. It is copied with the frame's other data, without an allocation.
class UserData {
 public:
  static constexpr std::size_t max_size = 32;  ///< bytes
  // NOLINTBEGIN(bugprone-sizeof-expression,bugprone-multi-level-implicit-pointer-conversion): T may be a pointer.
  /// What can be kept: it is copied byte by byte and never destroyed.
  template <typename T>
  static constexpr bool is_possible =
      std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T> && sizeof(T) <= max_size;

  /// Replaces what was there.
  template <typename T>
    requires is_possible<T>
  void set(const T& value) noexcept {
    std::memcpy(bytes_.data(), &value, sizeof value);
    type_ = &id<T>;
  }
  /// The value, if one of exactly this type was set; else nullopt.
  template <typename T>
    requires is_possible<T>
  [[nodiscard]] std::optional<T> get() const noexcept {
    if (type_ != &id<T>) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data(), sizeof value);
    return value;
  }
  // NOLINTEND(bugprone-sizeof-expression,bugprone-multi-level-implicit-pointer-conversion)
  void clear() noexcept { type_ = nullptr; }

 private:
  template <typename T>
  static inline char id = 0;  // its address stands for the type
  const void* type_ = nullptr;
  std::array<std::byte, max_size> bytes_{};
};

/// Which lines of an interlaced picture a buffer holds, and which were captured first (enum v4l2_field in
/// <linux/videodev2.h>).
enum class Field : std::uint8_t {
  progressive,   ///< a whole picture of one moment (V4L2_FIELD_NONE)
  top,           ///< the top lines alone
  bottom,        ///< the bottom lines alone
  top_first,     ///< both, line by line; the top ones were captured first (V4L2_FIELD_INTERLACED_TB)
  bottom_first,  ///< both, line by line; the bottom ones were captured first
  interlaced,    ///< both, line by line, in the order of the video standard: 525 lines bottom first, else top first
  other,         ///< one above the other, or alternating
};

/// What is known about one image.
struct FrameInfo {
  using Clock = dmaflow::Clock;
  /// Counted by the device: a gap means that it dropped images. It never decreases while a stream runs; some drivers
  /// repeat a number, or do not count.
  std::uint64_t sequence = 0;
  /// When the image was captured, on `clock`; never later than when it was taken from the device.
  std::chrono::nanoseconds timestamp{0};
  Clock clock = Clock::unknown;
  /// The part of the buffer that holds the image, in pixels.
  Rect visible{};
  /// Bytes used per plane; 0 if the device does not say (then all of it).
  std::array<std::uint32_t, max_planes> bytes_used{};
  /// The device flagged the contents as damaged. The frame is delivered anyway: a display may prefer it to no frame.
  bool is_erroneous = false;
  /// The last image of the stream.
  bool is_last = false;
  /// Its producer orders its work by the buffer's implicit fences (a GPU driver that has no others): a reader of the
  /// image must wait for those as well as for ready().
  bool has_implicit_fences = false;
  Field field = Field::progressive;
  ColorInfo color{};
  /// When a viewer should see it, on CLOCK_MONOTONIC; 0 = as soon as possible. Policy::on_time follows it.
  std::chrono::nanoseconds target{0};
  /// Its position in the media (a file's presentation time stamp), for the program; nullopt if there is none.
  std::optional<std::chrono::nanoseconds> pts{};
  /// How long it should be shown; 0 = not stated.
  std::chrono::nanoseconds duration{0};
  UserData user{};
};

class HoldSet;
namespace detail {
struct Hold;
}

/// One hold on one buffer. Move-only; empty after a move, after release() and by default. Destroying it releases the
/// hold. A Frame may be moved to and destroyed in any thread; one Frame object is not synchronised. It may outlive its
/// source. Every call on an empty Frame is safe; its effect is stated below.
class [[nodiscard("dropping a frame gives its buffer back at once")]] Frame {
 public:
  Frame() = default;
  Frame(Frame&& other) noexcept : hold_(std::exchange(other.hold_, nullptr)) {}
  Frame& operator=(Frame&& other) noexcept {
    if (this == &other) return *this;
    if (hold_ != nullptr) release();
    hold_ = std::exchange(other.hold_, nullptr);
    return *this;
  }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  ~Frame() {
    if (hold_ != nullptr) release();
  }

  explicit operator bool() const noexcept { return hold_ != nullptr; }
  // The references below are valid while this frame is held. After release() the source may change what they refer to.
  /// An empty frame has an empty buffer.
  [[nodiscard]] const Buffer& buffer() const noexcept;
  /// An empty frame has default values.
  [[nodiscard]] const FrameInfo& info() const noexcept;
  /// The buffer may be read once this has signalled. Null for cameras (V4L2 hands out finished images) and for an empty
  /// frame.
  [[nodiscard]] const Fence& ready() const noexcept;
  /// The slot of the buffer in its source: below HoldSet::max_buffers, different for each buffer the source has, and
  /// the same while the source has the buffer. Meaningless for an empty frame.
  [[nodiscard]] std::uint32_t index() const noexcept;

  /// Creates another hold on the same image. From then on every holder may only read. The buffer returns to the source
  /// when the last holder has released it, and the source then waits for the fences of all of them.
  /// Errors: EMFILE (more than HoldSet::max_holders holds were made of one image), EINVAL (this frame is empty).
  [[nodiscard]] Result<Frame> split();
  /// True for the only holder: it may write. False once split, until the others have released it, and for an empty
  /// frame.
  [[nodiscard]] bool is_sole() const noexcept;
  /// States what was written to the buffer and when it may be read. For the sole holder, before it passes the frame on.
  /// On an error the caller still owns @p ready.
  /// Errors: EPERM (split: others are reading), EINVAL (this frame is empty).
  Result<void> set_info(const FrameInfo& info, Fence&& ready = {}) noexcept;

  /// Releases the hold now. Does nothing on an empty frame.
  void release() noexcept;
  /// Releases the hold now; the buffer may be written again once @p done has signalled. An empty frame just closes it.
  void release(Fence done) noexcept;

 private:
  friend class HoldSet;
  struct Empty;  // what an empty frame answers with
  static const Empty& empty() noexcept;
  explicit Frame(detail::Hold& hold) noexcept : hold_(&hold) {}
  detail::Hold* hold_ = nullptr;  // which keeps its set
};

struct Frame::Empty {
  Buffer buffer;
  FrameInfo info;
  Fence ready;
};

namespace detail {

/// One buffer in a HoldSet, and who holds it.
struct Hold {
  static constexpr std::uint32_t max_holders = 16;
  static constexpr std::uint32_t none = ~0U;

  std::atomic<std::uint32_t> holders{0};
  std::atomic<std::uint32_t> holds_made{0};
  std::atomic<std::uint32_t> fence_count{0};
  std::uint32_t index = 0;
  std::uint32_t next = none;  // link in the stack of returned holds
  bool is_free = false;       // the source's thread only. Neither free nor with holders: returned, or no buffer
  const Buffer* buffer = nullptr;
  std::shared_ptr<HoldSet> set;  // while there are holders: they keep the set
  FrameInfo info;
  Fence ready;
  std::array<Fence, max_holders> fences;
};

}  // namespace detail

/// The source's side: a set of buffers, lent and returned without an allocation, a lock or, in the source's own thread,
/// a system call. Frames return from any thread; all calls on the set must be made in the source's thread.
///
/// Each buffer is free, lent, or returned:
///
///     free -- lend() --> lent -- the last Frame is released --> returned -- take_returned() --> free
///
/// Only a free buffer can be lent or retired. Everything else is refused with EBUSY and changes nothing.
class HoldSet : public std::enable_shared_from_this<HoldSet> {
 public:
  /// The most holds on one image, counted over its whole lifetime.
  static constexpr std::uint32_t max_holders = detail::Hold::max_holders;
  /// The most buffers in a set (V4L2's VIDEO_MAX_FRAME times two).
  static constexpr std::size_t max_buffers = 64;

  /// A buffer that came back, and what to wait for before it is written.
  struct Returned {
    std::uint32_t index = 0;
    std::span<Fence> fences;  ///< valid until the buffer is lent again or retired
  };

  /// @p room: how many buffers the set can have at once, for add(); a value below the number of @p buffers means just
  /// these. Errors: EINVAL (no buffers, an empty one, over max_buffers), EMFILE (no eventfd).
  [[nodiscard]] static Result<std::shared_ptr<HoldSet>> create(std::vector<Buffer> buffers, std::size_t room = 0);
  HoldSet(const HoldSet&) = delete;
  HoldSet& operator=(const HoldSet&) = delete;
  ~HoldSet();

  /// By index. A retired buffer's place holds an empty Buffer.
  [[nodiscard]] std::span<const Buffer> buffers() const noexcept { return {buffers_.get(), count_}; }
  /// Lends buffer @p index. @p ready: from when it may be read; still the caller's on an error.
  /// Errors: EBUSY (it is lent, or came back and take_returned() has not given it yet), EINVAL (there is no such
  /// buffer, or it was retired).
  [[nodiscard]] Result<Frame> lend(std::uint32_t index, const FrameInfo& info, Fence&& ready = {}) noexcept;
  /// The fences to wait for before the free buffer @p index is written. Valid until it is lent again or retired. Empty
  /// for a buffer that is not free.
  [[nodiscard]] std::span<Fence> fences(std::uint32_t index) noexcept;
  /// The next buffer that came back, in the order they came, or nothing. The buffer is free from then on.
  [[nodiscard]] std::optional<Returned> take_returned() noexcept;
  /// Adds a buffer as free and returns its index: that of a retired buffer, if there is one. Allocates nothing.
  /// Errors: EINVAL (the buffer is empty), ENOSPC (the set has as many buffers as create() allowed).
  [[nodiscard]] Result<std::uint32_t> add(const Buffer& buffer) noexcept;
  /// Releases the memory of the free buffer @p index, and closes its release fences.
  /// Errors: EBUSY (it is lent, or came back and take_returned() has not returned it yet), EINVAL (there is no such
  /// buffer, or it was retired before).
  Result<void> retire(std::uint32_t index) noexcept;
  /// Increases with each add() and retire(), to show whether buffers() has changed.
  [[nodiscard]] std::uint32_t changes() const noexcept { return changes_; }
  /// Buffers lent and not yet returned.
  [[nodiscard]] std::uint32_t lent() const noexcept { return lent_.load(std::memory_order_acquire); }

  /// Whether a buffer came back, from any thread, that take_returned() has not returned yet. A buffer returned in this
  /// thread is always seen.
  [[nodiscard]] bool has_returned() const noexcept {
    return in_order_ != none || returned_.load(std::memory_order_relaxed) != none;
  }
  /// Readable after a frame came back while armed. A loop arms before it sleeps, and disarms when it wakes, so that
  /// frames returned by the loop itself cost no system call.
  [[nodiscard]] int wake_fd() const noexcept { return wake_.get(); }
  /// False if a buffer has come back already: do not sleep, call take_returned().
  [[nodiscard]] bool arm() noexcept;
  /// @p woken: poll reported wake_fd() readable. It is read only then.
  void disarm(bool woken) noexcept;

 private:
  friend class Frame;
  using Hold = detail::Hold;
  static constexpr std::uint32_t none = Hold::none;

  HoldSet(std::vector<Buffer> buffers, std::size_t room, Fd wake);
  static void give_back(Hold& hold) noexcept;
  static void drop_fences(Hold& hold) noexcept;
  [[nodiscard]] bool is_free(std::uint32_t index) const noexcept { return index < count_ && holds_[index].is_free; }
  [[nodiscard]] Error not_free(const char* operation, std::uint32_t index) const noexcept;

  std::size_t room_;
  std::size_t count_;                  // slots in use, including those of retired buffers
  std::unique_ptr<Buffer[]> buffers_;  // never moved: frames in other threads refer to them
  std::unique_ptr<Hold[]> holds_;
  Fd wake_;
  std::atomic<std::uint32_t> returned_{none};  // stack of returned holds, newest first; any thread pushes
  std::uint32_t in_order_ = none;              // the same, oldest first; the source's thread only
  std::uint32_t changes_ = 0;
  std::atomic<std::uint32_t> lent_{0};
  std::atomic<bool> armed_{false};
};

inline const Buffer& Frame::buffer() const noexcept { return hold_ != nullptr ? *hold_->buffer : empty().buffer; }
inline const FrameInfo& Frame::info() const noexcept { return hold_ != nullptr ? hold_->info : empty().info; }
inline const Fence& Frame::ready() const noexcept { return hold_ != nullptr ? hold_->ready : empty().ready; }
inline std::uint32_t Frame::index() const noexcept { return hold_ != nullptr ? hold_->index : 0; }

}  // namespace dmaflow
