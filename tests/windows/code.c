/*
 * Runs a program, and writes its exit code to a file, in decimal: the code that Linux sees is another one where the program's
 * process takes longer than half a second to end. Wine's server kills it then (start_sigkill_timer in server/process.c of
 * Wine 8.0), though the program is over.
 *
 * Usage: code FILE PROGRAM ARGUMENT...
 *
 * With this program end the other one and all that it has started.
 */
#include <stdio.h>
#include <windows.h>

#include "words.h"

static int failed(const char *what)
{
    fprintf(stderr, "code: %s: error %lu\n", what, GetLastError());
    return 255;
}

int main(int count, char **words)
{
    STARTUPINFOA start = {.cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES};
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limit = {.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE};
    PROCESS_INFORMATION process;
    DWORD code = 255;
    HANDLE job;
    FILE *file;

    if (count < 3)
        return 255;
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    job = CreateJobObjectA(NULL, NULL);
    if (!job || !SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limit, sizeof limit))
        return failed("a job");
    if (!CreateProcessA(NULL, rest(rest(GetCommandLineA())), NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, &start, &process))
        return failed("CreateProcess");
    if (!AssignProcessToJobObject(job, process.hProcess) || ResumeThread(process.hThread) == (DWORD)-1)
        return failed("a process in a job");
    WaitForSingleObject(process.hProcess, INFINITE);
    if (!GetExitCodeProcess(process.hProcess, &code))
        return failed("GetExitCodeProcess");
    file = fopen(words[1], "w");
    if (!file || fprintf(file, "%lu", code) < 0 || fclose(file) != 0)
        return failed(words[1]);
    return (int)code;
}
