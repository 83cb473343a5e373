// V4L2: cameras as sources, video output devices as sinks.
//
// Kernel interface: include/uapi/linux/videodev2.h. Single- and multi-planar devices that stream. A camera's frames are
// either in its own buffers (MMAP, exported as dma-bufs) or in foreign ones (DMABUF import), depending on the buffers
// passed to start(). Slot i of the kernel's queue always carries the same dma-bufs, so the kernel maps each once. A
// running camera costs two system calls a frame, DQBUF and QBUF, in addition to the wait.
//
// Threads: one thread per object, the loop's; frames may be released in any thread.
// Errors name the device. Common ones: ENOENT (no such file), ENOTTY (not a V4L2 device), EINVAL (a device of another
// kind), EACCES (the group `video` opens video devices), EBUSY (another program streams), ENODEV (unplugged).
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

/// What a device node reports about itself (VIDIOC_QUERYCAP).
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
  /// libcamera does: without that it delivers no images.
  bool needs_media_controller = false;
};

/// Capture and output devices of this machine, by number. Devices that may not be opened are left out.
[[nodiscard]] std::vector<DeviceInfo> list();

/// A format a device lists (VIDIOC_ENUM_FMT).
struct Format {
  std::uint32_t code = 0;         ///< V4L2_PIX_FMT_*
  PixelFormat format;             ///< in DRM's terms; unknown codes are passed on
  Modifier modifier;              ///< implicit for unknown codes
  bool separate_objects = false;  ///< planes in separate buffers (NM12)
  bool known = false;             ///< dmaflow knows the arrangement of its planes
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
  std::string problem;          ///< "no signal", "no power", ...; empty if there is none
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
/// Which input: the one named in Options; else the current one, if it meets the request; else the first other input
/// with a signal whose own sizes (listed, or DV timings) include the requested size at the requested rate. The camera
/// never switches to an input that would have to scale unless it is named. On inputs with DV timings the signal
/// decides: the detected timings are used; timings of the requested size are tried, and kept only if the device then
/// detects them.
/// The input, timings and standard found at open() are restored when the camera is destroyed.
/// Which rate, if none is requested: the highest up to 60 per second.
///
/// A change of the signal ends the stream: take_changed() is true once there is a signal again, of any kind. Until then
/// take() returns no more frames, and poll_events() waits for the device's next event; also before start(), after
/// offers() or set_output() failed with ENOLINK or ENOLCK. The change is reported to the log hook.
class Camera final : public Source {
 public:
  struct Options {
    std::string input{};     ///< its number, its name, or the beginning of its name, in any case; empty = see above
    std::string standard{};  ///< for a TV input: "PAL", "NTSC-M-JP", or the beginning, in any case; empty = as it is
  };

  /// Opens a device node. An empty path: the first, by number, that captures video, can be opened, and is not in use by
  /// another program (checked by VIDIOC_REQBUFS with 0 buffers, which changes nothing). Nodes that need the media
  /// controller come after all others. Errors: ENODEV (no such device; with an empty path: nothing is a camera), EACCES
  /// (with the group that grants the right), EBUSY (with an empty path, and from drivers that only one program may
  /// open), EINVAL (not a camera), ENOTTY, ENOTSUP (no streaming). With an empty path the error says for each node why
  /// it was not used.
  [[nodiscard]] static Result<std::unique_ptr<Camera>> open(std::string_view path, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<Camera>> open(std::string_view path = {});
  /// Takes a descriptor of an open device (pass Fd::dup_of() to keep your own) and sets O_NONBLOCK on its open file.
  /// On an error the descriptor is closed.
  [[nodiscard]] static Result<std::unique_ptr<Camera>> adopt(Fd fd, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<Camera>> adopt(Fd fd);
  ~Camera() override;

  [[nodiscard]] const DeviceInfo& info() const noexcept;

  // What it has. Formats and sizes are those of the current input.
  [[nodiscard]] Result<std::vector<Format>> formats() const;
  [[nodiscard]] Result<std::vector<SizeRange>> sizes(const Format& format) const;
  [[nodiscard]] Result<std::vector<IntervalRange>> intervals(const Format& format, Size size) const;
  /// Empty if the device has no inputs to choose from.
  [[nodiscard]] Result<std::vector<Port>> inputs() const;
  /// Switches now and permanently: offers() then considers only this input. Errors: EINVAL with the existing inputs,
  /// EBUSY.
  Result<void> select_input(std::string_view name);

  /// What the current input receives. Errors: ENOLINK (no signal), ENOLCK (unstable), ERANGE (beyond the device),
  /// ENODATA and ENOTTY (not an input with timings).
  [[nodiscard]] Result<Timings> detected_timings() const;
  [[nodiscard]] Result<std::vector<Timings>> known_timings() const;
  /// Sets the timings of the list nearest to @p timings. Errors: EINVAL (none of that size), EBUSY.
  Result<void> set_timings(const Timings& timings);

  /// TV standards of the current input; empty if it has none. The program must set or detect the standard; it is never
  /// chosen automatically: receivers distinguish PAL from NTSC, but seldom one PAL from another.
  [[nodiscard]] Result<std::vector<Standard>> standards() const;
  /// What is set, and what is received. Errors: ENODATA and ENOTTY (not a TV input), ENOLINK (no signal).
  [[nodiscard]] Result<Standard> standard() const;
  [[nodiscard]] Result<Standard> detected_standard() const;
  /// By name, or the beginning of a name, in any case. Errors: EINVAL with the existing ones, ENODATA, EBUSY.
  Result<void> set_standard(std::string_view name);

  /// The part of the sensor or signal that is captured; and where in the buffer it goes, in pixels. Setting returns the
  /// rectangle that the device chose; it may be done while streaming if the driver allows that. Setting one may change
  /// the other; if it changes the format, set_output() must follow. Errors: ENOTTY and EINVAL (the device cannot),
  /// EBUSY.
  [[nodiscard]] Result<Rect> crop() const;
  Result<Rect> set_crop(const Rect& rect);
  [[nodiscard]] Result<Rect> compose() const;
  Result<Rect> set_compose(const Rect& rect);

  /// Controls by name, in any case, spaces or underscores alike: "Brightness", "power_line_frequency".
  [[nodiscard]] std::vector<Control> controls() const;
  /// Errors: EINVAL (no such control; the detail lists similar names), EACCES (write only).
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
  /// Errors: those of Producer, and EBUSY if another program has changed the device (see start()) or uses the queue.
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override;
  /// Named "camera". Allocates for the format set with set_output(). Its buffers outlive the camera.
  [[nodiscard]] Allocator* output_allocator() noexcept override;
  /// The buffers of an earlier run may be passed again, once none of its frames is held (EBUSY) and the fences they
  /// were released with have ended; the caller must ensure the latter.
  /// Any program may change a V4L2 device until its queue has buffers. So the driver's settings are compared with those
  /// that set_output() found: size, format, strides, bytes, field, colour, input, and crop and compose as they were
  /// found or set through this object. Differing settings are set again once. EBUSY, with both settings in the detail,
  /// if the driver's still differ after that: negotiate again (set_output()).
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  Result<void> stop() noexcept override;
  /// After dispatch() has received POLLIN for the first time, take() queries the device only if dispatch() has received
  /// POLLIN (or POLLERR) since the last frame: a frame costs one DQBUF. If the device can compose, a frame costs one
  /// more call, G_SELECTION: FrameInfo::visible is the compose rectangle that the driver has when the frame is taken,
  /// no matter who set it. Frames that the driver had finished before a change, and that were not taken yet, get the
  /// new rectangle.
  [[nodiscard]] Result<Frame> take() override;
  [[nodiscard]] bool may_have_frame() const noexcept override;
  [[nodiscard]] HoldSet* holds() noexcept override;
  [[nodiscard]] int poll_fd() const noexcept override;
  /// Only events while no buffer is queued (POLLIN would report POLLERR continuously) or there is no signal.
  [[nodiscard]] short poll_events() const noexcept override;
  /// Queues returned buffers whose release fences have ended, and reads events. A buffer with a pending fence is
  /// checked again at the next dispatch(); others are queued before it. If a release fence failed, its buffer is
  /// written anyway, because its reader is gone; this is reported to the log hook.
  [[nodiscard]] Result<void> dispatch(short revents) override;
  /// The fence of the buffer that came back first among those with pending fences.
  [[nodiscard]] int waiting_fence() const noexcept override;

 private:
  struct Impl;
  explicit Camera(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

/// A V4L2 video output device as a sink: frames are imported (DMABUF) and returned when the device has finished with
/// them. Frames are shown in the order in which they were accepted, each after its ready() fence; a pending fence
/// delays the frames behind it, but blocks no call. A frame whose fence failed is never shown: the output releases it
/// at once, counts it in dropped() and logs a warning.
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
  /// Gives it its own slot in the driver's queue (VIDIOC_CREATE_BUFS), or that of a removed buffer. The driver gets it
  /// with its first frame. Errors: EINVAL (its layout differs), ENOBUFS (the driver creates no more slots, or has 64).
  [[nodiscard]] Result<void> add_buffer(const Buffer& buffer) override;
  void remove_buffer(const Buffer& buffer) noexcept override;
  [[nodiscard]] Needs needs() const override {
    return {.constraints = {}, .usage = {.capture = true}, .modifiers = {}};
  }
  [[nodiscard]] std::uint64_t dropped() const noexcept override;
  [[nodiscard]] std::uint32_t max_held() const noexcept override;
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  /// If another program has changed the device since set_input(), it is set again once, as Camera::start() does. EBUSY,
  /// with both settings in the detail, if they still differ after that: call set_input() again.
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
