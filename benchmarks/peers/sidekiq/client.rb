# frozen_string_literal: true

# A client that enqueues jobs and measures itself: see ../program.py.

require_relative "jobs"

$stdout.sync = true

def instant(clock, unit = :float_second) = Process.clock_gettime(clock, unit)

Sidekiq.redis { |connection| connection.call("PING") }

case ARGV[0]
when "jobs"
  jobs, size = ARGV[1..].map(&:to_i)
  cpu = instant(Process::CLOCK_PROCESS_CPUTIME_ID)
  begun = instant(Process::CLOCK_MONOTONIC)
  if size == 1
    jobs.times { |number| Noop.perform_async(number) }
  else
    (0...jobs).each_slice(size) { |numbers| Noop.perform_bulk(numbers.map { |number| [number] }) }
  end
  seconds = instant(Process::CLOCK_MONOTONIC) - begun
  puts "#{seconds} #{instant(Process::CLOCK_PROCESS_CPUTIME_ID) - cpu}"
when "timestamps"
  puts "ready"
  while (line = $stdin.gets)
    called = instant(Process::CLOCK_REALTIME, :nanosecond)
    Stamp.perform_async(line.to_i)
    puts called
  end
end
