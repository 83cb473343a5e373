// V4L2: cameras as sources, video output devices as sinks.
//
// Kernel interface: include/uapi/linux/videodev2.h. Single- and multi-planar devices that stream. A camera's frames lie
// either in its own buffers (MMAP, exported as dma-bufs) or in anybody's (DMABUF import); which one is decided by the
// buffers given to start(). Slot i of the kernel's queue always carries the same dma-bufs, so the kernel maps each
// once. A running camera costs two system calls a frame, DQBUF and QBUF, beside the wait.
//
// Threads: one thread per object, the loop's; frames may end in any thread.
// Errors name the device. Common ones: ENOENT (no such file), ENOTTY (not a V4L2 device), EINVAL (a device of another
// kind), EACCES (the group `video` opens video devices), EBUSY (somebody streams), ENODEV (unplugged).
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace dmaflow::v4l2 {

/// What a device node says of itself (VIDIOC_QUERYCAP).
struct DeviceInfo {
  std::string path;          ///< "/dev/video0"; "fd 5" for an adopted descriptor whose path is not known
  std::string driver;        ///< "uvcvideo"
  std::string card;          ///< "HD Webcam C920"
  std::string bus;           ///< "usb-0000:00:14.0-1"
  bool capture = false;      ///< a camera or grabber: see Camera
  bool output = false;       ///< a video output: see Output
  bool multiplanar = false;  ///< its API; what it can do is the same
  bool streaming = false;    ///< false: read() and write() only, of no use here
  /// Its sensor and image processor are set up through the media controller (V4L2_CAP_IO_MC, since kernel 5.8), as
  /// libcamera does: without that it gives no images.
  bool needs_media_controller = false;
};

/// Capture and output devices of this machine, by number. Those that may not be opened are left out.
[[nodiscard]] std::vector<DeviceInfo> list();

/// A format a device lists (VIDIOC_ENUM_FMT).
struct Format {
  std::uint32_t code = 0;         ///< V4L2_PIX_FMT_*
  PixelFormat format;             ///< in DRM's words; unknown codes are carried
  Modifier modifier;              ///< implicit for unknown codes
  bool separate_objects = false;  ///< planes in buffers of their own (NM12)
  bool known = false;             ///< dmaflow knows how its planes lie
  bool compressed = false;
  std::string description;
};

/// Sizes a device lists (VIDIOC_ENUM_FRAMESIZES): one where min equals max, else a grid.
struct SizeRange {
  Size min;
  Size max;
  Size step;  ///< 1x1 at least
  [[nodiscard]] bool is_discrete() const noexcept { return min == max; }
  [[nodiscard]] bool contains(Size size) const noexcept;
};

/// Intervals a device lists (VIDIOC_ENUM_FRAMEINTERVALS): one where both are equal, else all between.
struct IntervalRange {
  Interval shortest;
  Interval longest;
};

/// An input of a camera (VIDIOC_ENUMINPUT), or an output connector of an output device (VIDIOC_ENUMOUTPUT).
struct Port {
  std::uint32_t index = 0;
  std::string name;
  bool is_current = false;
  bool has_dv_timings = false;  ///< HDMI and the like
  bool has_standards = false;   ///< PAL, NTSC
  std::string problem;          ///< "no signal", "no power", ...; empty where all is well
};

/// Digital video timings (VIDIOC_QUERY_DV_TIMINGS, VIDIOC_ENUM_DV_TIMINGS): what an HDMI source sends.
struct Timings {
  Size size;
  Interval interval;
  bool interlaced = false;
  std::uint64_t pixel_clock = 0;  ///< Hz
  friend bool operator==(const Timings&, const Timings&) = default;
};

/// A TV standard (VIDIOC_ENUMSTD).
struct Standard {
  std::uint64_t id = 0;  ///< V4L2_STD_*, one or several
  std::string name;      ///< "PAL"
  Interval interval;     ///< of whole frames
  std::uint32_t lines = 0;
};

/// A control (VIDIOC_QUERY_EXT_CTRL). Compound ones (arrays, structures) are left out.
struct Control {
  enum class Kind : std::uint8_t { integer, boolean, menu, button, bitmask, integer_menu, text };
  struct Item {
    std::int64_t index = 0;
    std::string name;  ///< the entry's text; for integer menus its value
  };
  std::uint32_t id = 0;
  std::string name;
  Kind kind = Kind::integer;
  std::int64_t minimum = 0;
  std::int64_t maximum = 0;
  std::uint64_t step = 0;
  std::int64_t default_value = 0;
  bool read_only = false;
  bool inactive = false;
  std::vector<Item> items;  ///< of menus
};

/// A camera, a grabber, or any other V4L2 capture device.
///
/// Which input: the one named in Options; else the current one, if it has what is asked for; else the first other input
/// with a signal whose own sizes (listed, or DV timings) include the size asked for at the rate asked for. An input
/// that would have to scale is never switched to on its own. On inputs with DV timings the signal decides: the timings
/// detected are used; timings of the size asked for are tried, and kept only if the device then detects them.
/// The input, timings and standard found at open() are restored when the camera is destroyed.
///
/// Which rate, where none is asked for: the highest up to 60 per second.
///
/// A signal that changes ends the stream: take_changed() is true once a signal is there again, of whatever kind. Until
/// then take() gives nothing more, and poll_events() waits for the device's next event; also before start(), after
/// offers() or set_output() failed with ENOLINK or ENOLCK. The log hook is told.
class Camera final : public Source {
 public:
  struct Options {
    std::string input{};     ///< its number, its name, or the beginning of its name, in any case; empty = see above
    std::string standard{};  ///< for a TV input: "PAL", "NTSC-M-JP", or the beginning, in any case; empty = as it is
  };

  /// Opens a device node. An empty path: the first, by number, that captures video, can be opened, and is not in use by
  /// another program (asked by VIDIOC_REQBUFS with 0 buffers, which changes nothing). Nodes that need the media
  /// controller come after all others. Errors: ENODEV (no such device; with an empty path: nothing is a camera), EACCES
  /// (with the group that grants the right), EBUSY (with an empty path, and by drivers that one program may open),
  /// EINVAL (not a camera), ENOTTY, ENOTSUP (no streaming). With an empty path the error says of each node why it was
  /// not used.
  [[nodiscard]] static Result<std::unique_ptr<Camera>> open(std::string_view path, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<Camera>> open(std::string_view path = {});
  /// Takes a descriptor of an open device (Fd::dup_of keeps one's own) and sets O_NONBLOCK on its open file.
  /// On an error the descriptor is closed.
  [[nodiscard]] static Result<std::unique_ptr<Camera>> adopt(Fd fd, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<Camera>> adopt(Fd fd);
  ~Camera() override;

  [[nodiscard]] const DeviceInfo& info() const noexcept;

  // What it has. Formats and sizes are those of the current input.
  [[nodiscard]] Result<std::vector<Format>> formats() const;
  [[nodiscard]] Result<std::vector<SizeRange>> sizes(const Format& format) const;
  [[nodiscard]] Result<std::vector<IntervalRange>> intervals(const Format& format, Size size) const;
  /// Empty where the device has no inputs to choose from.
  [[nodiscard]] Result<std::vector<Port>> inputs() const;
  /// Switches now, and for good: offers() then looks at this one only. Errors: EINVAL with the inputs there are, EBUSY.
  Result<void> select_input(std::string_view name);

  /// What the current input receives. Errors: ENOLINK (no signal), ENOLCK (unstable), ERANGE (beyond the device),
  /// ENODATA and ENOTTY (not an input with timings).
  [[nodiscard]] Result<Timings> detected_timings() const;
  [[nodiscard]] Result<std::vector<Timings>> known_timings() const;
  /// Sets the timings of the list nearest to @p timings. Errors: EINVAL (none of that size), EBUSY.
  Result<void> set_timings(const Timings& timings);

  /// TV standards of the current input; empty where it has none. They are set by who knows them, or detected by who
  /// asks, and never by themselves: receivers tell PAL from NTSC, but seldom one PAL from another.
  [[nodiscard]] Result<std::vector<Standard>> standards() const;
  /// What is set, and what is received. Errors: ENODATA and ENOTTY (not a TV input), ENOLINK (no signal).
  [[nodiscard]] Result<Standard> standard() const;
  [[nodiscard]] Result<Standard> detected_standard() const;
  /// By name, or the beginning of a name, in any case. Errors: EINVAL with those there are, ENODATA, EBUSY.
  Result<void> set_standard(std::string_view name);

  /// The part of the sensor or signal that is captured; and where in the buffer it goes, in pixels. Setting returns
  /// what the device made of it; it may be done in mid-stream where the driver allows that. Setting one may change the
  /// other; where it changes the format, set_output() must follow. Errors: ENOTTY and EINVAL (the device cannot),
  /// EBUSY.
  [[nodiscard]] Result<Rect> crop() const;
  Result<Rect> set_crop(const Rect& rect);
  [[nodiscard]] Result<Rect> compose() const;
  Result<Rect> set_compose(const Rect& rect);

  /// Controls by name, in any case, spaces or underscores alike: "Brightness", "power_line_frequency".
  [[nodiscard]] std::vector<Control> controls() const;
  /// Errors: EINVAL (no such control; the detail lists near ones), EACCES (write only).
  [[nodiscard]] Result<std::int64_t> control(std::string_view name) const;
  /// For integers, booleans, menus by index, bitmasks; buttons take any value.
  /// Errors: EINVAL, ERANGE (with the range), EACCES (read only), EBUSY.
  Result<void> set_control(std::string_view name, std::int64_t value);
  /// For menus, by the entry's text; also "true", "false" and numbers.
  Result<void> set_control(std::string_view name, std::string_view value);

  // Source.
  [[nodiscard]] std::string_view name() const noexcept override;
  [[nodiscard]] bool take_changed() noexcept override;
  /// True while there is no signal.
  [[nodiscard]] bool is_waiting() const noexcept override;
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override;
  /// Errors: as Producer says, and EBUSY where another program has changed the device (see start()) or has the queue.
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override;
  /// Named "camera". Allocates for the format set with set_output(). Its buffers outlive the camera.
  [[nodiscard]] Allocator* output_allocator() noexcept override;
  /// The buffers of an earlier run may be given again, once none of its frames is held (EBUSY) and the fences they were
  /// released with have ended: that is for the caller to see to.
  /// Any program may change a V4L2 device until its queue has buffers. So what the driver has is compared with what
  /// set_output() found: size, format, strides, bytes, field, colour, input, and crop and compose as they were found or
  /// set through this object. What differs is set again once. EBUSY, with both in the detail, where the driver then
  /// still has something else: negotiate anew (set_output()).
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  Result<void> stop() noexcept override;
  /// After dispatch() has been told POLLIN for the first time, take() asks the device only when dispatch() was told
  /// POLLIN (or POLLERR) since the last frame: a frame costs one DQBUF. Where the device can compose, it costs one
  /// G_SELECTION more: FrameInfo::visible is the compose rectangle that the driver has when the frame is taken, whoever
  /// set it. Frames the driver had finished before a change, and that were not taken yet, have the new one.
  [[nodiscard]] Result<Frame> take() override;
  [[nodiscard]] HoldSet* holds() noexcept override;
  [[nodiscard]] int poll_fd() const noexcept override;
  /// Events alone while no buffer is queued (POLLIN would report POLLERR without end) or no signal is there.
  [[nodiscard]] short poll_events() const noexcept override;
  /// Queues returned buffers whose release fences have ended, and reads events. A buffer with a fence that is pending
  /// is looked at again at the next dispatch(); others are queued before it. A release fence that failed lets its
  /// buffer be written all the same, for who read it is gone; the log hook is told.
  [[nodiscard]] Result<void> dispatch(short revents) override;
  /// That of the buffer which came back first, of those whose fences are pending.
  [[nodiscard]] int waiting_fence() const noexcept override;

 private:
  struct Impl;
  explicit Camera(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

/// A V4L2 video output device as a sink: frames are imported (DMABUF) and handed back when the device is done with
/// them. Frames are shown in the order they were accepted, each after its ready() fence; one that is pending holds up
/// those behind it, and blocks nobody. A frame whose fence failed is never shown: the output lets it go at once,
/// counts it in dropped() and logs a warning.
class Output final : public Sink {
 public:
  struct Options {
    std::string
        output;  ///< the connector: number, name or its beginning; empty = the current, or one that has the size
    std::uint32_t depth = 3;  ///< frames that may be queued in the device at once, 2 to 32
  };

  /// As Camera::open.
  [[nodiscard]] static Result<std::unique_ptr<Output>> open(std::string_view path, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<Output>> open(std::string_view path = {});
  /// As Camera::adopt.
  [[nodiscard]] static Result<std::unique_ptr<Output>> adopt(Fd fd, const Options& options);
  ~Output() override;

  [[nodiscard]] const DeviceInfo& info() const noexcept;
  [[nodiscard]] Result<std::vector<Format>> formats() const;
  [[nodiscard]] Result<std::vector<Port>> outputs() const;

  // Sink.
  [[nodiscard]] std::string_view name() const noexcept override;
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  /// Gives it a slot of its own in the driver's queue (VIDIOC_CREATE_BUFS), or that of a buffer that left. The driver
  /// sees it with its first frame. Errors: EINVAL (its layout is another), ENOBUFS (the driver makes no more slots, or
  /// has 64).
  [[nodiscard]] Result<void> add_buffer(const Buffer& buffer) override;
  void remove_buffer(const Buffer& buffer) noexcept override;
  [[nodiscard]] Needs needs() const override {
    return {.constraints = {}, .usage = {.capture = true}, .modifiers = {}};
  }
  [[nodiscard]] std::uint64_t dropped() const noexcept override;
  [[nodiscard]] std::uint32_t max_held() const noexcept override;
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  /// Where another program has changed the device since set_input(), it is set again once, as Camera::start() does.
  /// EBUSY, with both settings in the detail, where it then still has another: set_input() anew.
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  [[nodiscard]] bool ready() const noexcept override;
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  [[nodiscard]] Result<void> flush() override;
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> out) noexcept override;
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  Result<void> stop() noexcept override;
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;
  [[nodiscard]] int waiting_fence() const noexcept override;

 private:
  struct Impl;
  explicit Output(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::v4l2
