/*
 * Says what expat makes of documents, for expat_test.go. A request on stdin is the
 * length of a prefix and of a text, each as four bytes, the highest first, and the two.
 * The prefix is parsed first, and what it opens stays open. The answer on stdout is
 * four numbers of the same form: the error of expat, or zero; how many elements the text
 * has at its first level; the offset in the text behind the last of them; and 1 if there
 * is something else at the first level, or what RFC 6120, section 11.1 forbids.
 */
#include <expat.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static XML_Parser parser;
static int depth, base, elements, other, in_text, unfinished;
static long end, offset;

static void started(void *u, const XML_Char *name, const XML_Char **attributes) {
	if (in_text && depth == base)
		elements++;
	depth++;
}

static void ended(void *u, const XML_Char *name) {
	depth--;
	if (!in_text)
		return;
	if (depth == base)
		end = XML_GetCurrentByteIndex(parser) + XML_GetCurrentByteCount(parser) - offset;
	if (depth < base)
		other = 1;
}

static void text(void *u, const XML_Char *s, int n) {
	if (in_text && depth == base)
		other = 1;
}

static void forbidden(void *u, const XML_Char *s, const XML_Char *t) {
	other = 1;
}

static void comment(void *u, const XML_Char *s) {
	other = 1;
}

static void doctype(void *u, const XML_Char *name, const XML_Char *s, const XML_Char *p, int internal) {
	other = 1;
}

static int get(uint32_t *n) {
	unsigned char b[4];
	if (fread(b, 1, 4, stdin) != 4)
		return 0;
	*n = (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
	return 1;
}

static void put(uint32_t n) {
	unsigned char b[4] = {n >> 24, n >> 16, n >> 8, n};
	fwrite(b, 1, 4, stdout);
}

int main(void) {
	uint32_t prefix, size;
	/* A separator that no name of a namespace can have: expat refuses it there. */
	parser = XML_ParserCreateNS("UTF-8", '\f');
	while (get(&prefix) && get(&size)) {
		char *b = malloc(prefix + size + 1);
		if (!b || fread(b, 1, prefix + size, stdin) != prefix + size)
			return 1;
		depth = base = elements = other = in_text = 0;
		end = 0, offset = prefix;
		XML_ParserReset(parser, "UTF-8");
		XML_SetElementHandler(parser, started, ended);
		XML_SetCharacterDataHandler(parser, text);
		XML_SetProcessingInstructionHandler(parser, forbidden);
		XML_SetCommentHandler(parser, comment);
		XML_SetStartDoctypeDeclHandler(parser, doctype);
		int ok = XML_Parse(parser, b, prefix, 0) == XML_STATUS_OK;
		base = depth, in_text = 1;
		ok = ok && XML_Parse(parser, b + prefix, size, prefix == 0) == XML_STATUS_OK;
		put(ok ? 0 : XML_GetErrorCode(parser));
		put(elements), put(end), put(other || (prefix > 0 && depth != base));
		fflush(stdout);
		free(b);
	}
	return 0;
}
